// Instances of the backward kernel: float32, up to dim 64.
#include "engine/cuda/sm90/float_backward_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_float_backward<32>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_float_backward<48>(const BackwardProblem&, const BackwardPlans&, Scratch&);
template void launch_float_backward<64>(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
