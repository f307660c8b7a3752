// float32 kernels of the portable engine.
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template void launch_forward<float, 32>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<float, 48>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<float, 64>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<float, 128>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_forward<float, 256>(const Problem&, const DevicePlan&, Scratch&, cudaStream_t);
template void launch_backward<float, 32>(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&,
                                         Scratch&, cudaStream_t);
template void launch_backward<float, 48>(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&,
                                         Scratch&, cudaStream_t);
template void launch_backward<float, 64>(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&,
                                         Scratch&, cudaStream_t);
template void launch_backward<float, 128>(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&,
                                          Scratch&, cudaStream_t);
template void launch_backward<float, 256>(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&,
                                          Scratch&, cudaStream_t);

}  // namespace longstride::engine::cuda::sm80
