// Instances of the forward kernel: Float16, Plain, the dims that are not tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<Float16, 32, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 96, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);
template void launch_forward<Float16, 256, Plain>(const ForwardProblem&, const DevicePlan&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
