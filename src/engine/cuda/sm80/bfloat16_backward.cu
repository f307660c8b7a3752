// bfloat16 kernels of the portable engine's backward in one pass.
#include "engine/cuda/sm80/backward_launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_backward<BFloat16, 32>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 48>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 64>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 96>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 128>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
