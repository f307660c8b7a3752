// float16 kernels of the portable engine.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<Float16, 32>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 64>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 128>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 256>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_backward<Float16, 32>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 64>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 128>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 256>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
