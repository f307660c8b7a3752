// Instances of the backward kernel: BFloat16, NoDropout.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<BFloat16, 32, NoDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 48, NoDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 64, NoDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 96, NoDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 128, NoDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
