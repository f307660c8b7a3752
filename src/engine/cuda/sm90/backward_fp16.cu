// Instances of the backward kernel: Float16, Plain.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<Float16, 32, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 48, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 64, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 96, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<Float16, 128, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
