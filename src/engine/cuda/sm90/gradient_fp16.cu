// Instances of the one-gradient kernels: Float16, Plain, the dims that are tuned.
#include "engine/cuda/sm90/gradient_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_gradients<Float16, 64, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_gradients<Float16, 128, Plain>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
