// Instances of the backward kernel: Float16, WithDropout.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<Float16, 32, WithDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 48, WithDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 64, WithDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 96, WithDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 128, WithDropout>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
