// The lengths of a call on the device. Called by what plans a list there, and by its gates.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/scratch.h"

namespace longstride::engine::cuda::lists {

// [batch], none beyond len_k; null where the list has none. Copied as arguments of kernels: what a graph holds of
// memory of the host would have to stay as long as the graph.
const int32_t* lengths_on_device(const Problem&, const BlocksOnDevice&, Scratch&);

}  // namespace longstride::engine::cuda::lists
