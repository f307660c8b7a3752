// Instances of the forward kernel: BFloat16, NoDropout, the dims that are not tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<BFloat16, 32, NoDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96, NoDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 256, NoDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
