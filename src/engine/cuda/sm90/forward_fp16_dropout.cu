// Instances of the forward kernel: Float16, WithDropout.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<Float16, 32, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 48, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 64, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 96, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 128, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 256, WithDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
