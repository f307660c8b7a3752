// Instances of the forward kernel: BFloat16, Plain, the dims that are not tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<BFloat16, 32, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 256, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
