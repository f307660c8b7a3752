// Instances of the one-gradient kernels: BFloat16, Plain, dim 256.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<BFloat16, 256, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
