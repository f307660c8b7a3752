// Instances of the backward kernel: BFloat16, Plain.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<BFloat16, 32, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 48, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 64, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 96, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_backward<BFloat16, 128, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
