// Instances of the forward kernel: BFloat16, NoDropout, the dims that are not tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<core::BFloat16, 32, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 96, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 256, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
