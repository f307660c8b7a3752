// Instances of the backward kernel: BFloat16, Extras.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<BFloat16, 32, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 48, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 64, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 96, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 128, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
