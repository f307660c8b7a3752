// float32 kernels of the portable engine, dims to 128.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<float, 32>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 48>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 64>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 128>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_gradients<float, 32>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<float, 48>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<float, 64>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<float, 128>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
