// Instances of the one-gradient kernels: BFloat16, NoDropout, the dims that are tuned.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<core::BFloat16, 64, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                              const DevicePlan&, Scratch&, cudaStream_t);
template void launch_gradients<core::BFloat16, 128, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                               const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
