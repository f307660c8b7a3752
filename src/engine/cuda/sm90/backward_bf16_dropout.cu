// Instances of the backward kernel: BFloat16, PhiloxDropout.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<BFloat16, 32, PhiloxDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 48, PhiloxDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 64, PhiloxDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 96, PhiloxDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 128, PhiloxDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
