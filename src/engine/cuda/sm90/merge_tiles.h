// A base launch all of whose tiles only merge: a kernel of its own, since the forward's is long in starting.
#pragma once

#include <cuda_runtime.h>

#include "core/half.h"
#include "engine/cuda/sm90/forward_values.h"

namespace longstride::engine::cuda::sm90 {

// `partial_dim`: floats in a row of partial_out. `early`: the launch before it is one of partial levels that says when
// this one may begin.
template <class Tag>
void launch_merges(const ForwardParams&, int partial_dim, bool early, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
