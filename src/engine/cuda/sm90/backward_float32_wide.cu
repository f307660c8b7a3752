// Instances of the backward kernel: float32, from dim 65 on.
#include "engine/cuda/sm90/float_backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_float_backward<128>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
