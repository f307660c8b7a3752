// Instances of the one-gradient kernels: BFloat16, NoDropout, dim 256.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<core::BFloat16, 256, NoDropout>(const Problem&, const Gradients&, const DevicePlan&,
                                                               const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
