// bfloat16 kernels of the portable engine.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<core::BFloat16, 32>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 64>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 128>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<core::BFloat16, 256>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 32>(const Problem&, const Gradients&, const DevicePlan&,
                                                  const DevicePlan&, Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 64>(const Problem&, const Gradients&, const DevicePlan&,
                                                  const DevicePlan&, Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 128>(const Problem&, const Gradients&, const DevicePlan&,
                                                   const DevicePlan&, Scratch&, cudaStream_t);
template void launch_backward<core::BFloat16, 256>(const Problem&, const Gradients&, const DevicePlan&,
                                                   const DevicePlan&, Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm80
