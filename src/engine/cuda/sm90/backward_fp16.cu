// Instances of the backward kernel: Float16, NoDropout.
#include "engine/cuda/sm90/backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_backward<core::Float16, 32, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                            Scratch&, cudaStream_t);
template void launch_backward<core::Float16, 48, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                            Scratch&, cudaStream_t);
template void launch_backward<core::Float16, 64, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                            Scratch&, cudaStream_t);
template void launch_backward<core::Float16, 96, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                            Scratch&, cudaStream_t);
template void launch_backward<core::Float16, 128, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                             Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
