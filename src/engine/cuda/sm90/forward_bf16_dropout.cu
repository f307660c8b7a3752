// Instances of the forward kernel: BFloat16, PhiloxDropout.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<BFloat16, 32, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 48, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 64, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 128, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 256, PhiloxDropout>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
