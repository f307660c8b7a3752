// Instances of the forward kernel: float32, Extras, up to dim 64.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<float, 32, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 48, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 64, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
