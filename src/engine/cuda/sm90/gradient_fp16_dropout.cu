// Instances of the one-gradient kernels: Float16, PhiloxDropout.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<core::Float16, 64, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                 const DevicePlan&, Scratch&, cudaStream_t);
template void launch_gradients<core::Float16, 128, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                  const DevicePlan&, Scratch&, cudaStream_t);
template void launch_gradients<core::Float16, 256, PhiloxDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                                  const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
