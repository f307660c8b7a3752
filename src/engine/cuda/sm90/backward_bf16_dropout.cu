// Instances of the backward kernel: BFloat16, PhiloxDropout.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<core::BFloat16, 32, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                 Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 48, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                 Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 64, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                 Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 96, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                 Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 128, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                  Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
