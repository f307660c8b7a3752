// Instances of the forward kernel: BFloat16, WithDropout.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<BFloat16, 32, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 48, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 64, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 128, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 256, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
