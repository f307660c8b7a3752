// Instances of the forward kernel: BFloat16, NoDropout, the dims that are tuned.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<core::BFloat16, 48, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 64, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 128, NoDropout>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
