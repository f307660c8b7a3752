// Instances of the forward kernel: BFloat16, PhiloxDropout.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<core::BFloat16, 32, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);
template void launch_forward<core::BFloat16, 48, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);
template void launch_forward<core::BFloat16, 64, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);
template void launch_forward<core::BFloat16, 96, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);
template void launch_forward<core::BFloat16, 128, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                 cudaStream_t);
template void launch_forward<core::BFloat16, 256, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                 cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
