// Instances of the forward kernel: Float16, PhiloxDropout.
#include "engine/cuda/sm90/forward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_forward<core::Float16, 32, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                               cudaStream_t);
template void launch_forward<core::Float16, 48, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                               cudaStream_t);
template void launch_forward<core::Float16, 64, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                               cudaStream_t);
template void launch_forward<core::Float16, 96, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                               cudaStream_t);
template void launch_forward<core::Float16, 128, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);
template void launch_forward<core::Float16, 256, PhiloxDropout>(const Problem&, const DevicePlan&, Scratch&,
                                                                cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
