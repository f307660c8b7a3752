// Instances of the forward kernel for tiles of few columns: BFloat16.
#include "engine/cuda/sm90/forward_short_launch.cuh"

namespace longstride::engine::cuda::sm90 {

template void launch_short_tiles<BFloat16, 48>(const ForwardProblem&, const LaunchLanes&, const ForwardParams&, bool,
                                               cudaStream_t);
template void launch_short_tiles<BFloat16, 64>(const ForwardProblem&, const LaunchLanes&, const ForwardParams&, bool,
                                               cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
