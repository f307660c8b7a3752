// Launches the forward kernel of which two blocks share a multiprocessor. Included by the files that instantiate it.
#pragma once

#include "engine/cuda/sm90/forward_levels.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Tag, int kDim>
void launch_short_tiles(const ForwardProblem& p, const LaunchLanes& lanes, const ForwardParams& params, bool early,
                        cudaStream_t stream) {
  launch_levels<ForwardShape<ElementOf<Tag>, kDim, Plain, 1, 2>>(p, lanes, params, early, stream);
}

}  // namespace longstride::engine::cuda::sm90
