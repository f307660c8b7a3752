// Instances of the forward kernel: Float16, Plain, the dims that are tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<Float16, 48, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 64, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 128, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
