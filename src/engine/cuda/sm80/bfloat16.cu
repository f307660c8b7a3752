// bfloat16 kernels of the portable engine, dims to 128.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<BFloat16, 32>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 48>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 64>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 128>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_gradients<BFloat16, 32>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 48>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 64>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 96>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 128>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
