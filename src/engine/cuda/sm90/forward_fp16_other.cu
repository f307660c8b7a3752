// Instances of the forward kernel: Float16, NoDropout, the dims that are not tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<core::Float16, 32, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::Float16, 96, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::Float16, 256, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
