// Instances of the forward kernel: BFloat16, Extras.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<BFloat16, 32, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 48, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 64, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 96, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 128, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<BFloat16, 256, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
