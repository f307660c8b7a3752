// Instances of the one-gradient kernels: BFloat16, Extras.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<BFloat16, 64, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 128, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<BFloat16, 256, Extras>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
