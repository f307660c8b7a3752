// Kernels of the portable engine for dims above 128.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<BFloat16, 256>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 256>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 256>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_gradients<BFloat16, 256>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<Float16, 256>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<float, 256>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
