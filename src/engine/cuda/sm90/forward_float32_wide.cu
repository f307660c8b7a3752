// Instances of the forward kernel: float32, Extras, from dim 65 on.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<float, 96, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<float, 128, Extras>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
