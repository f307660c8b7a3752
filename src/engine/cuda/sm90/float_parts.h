// Tensors of float32 as the tensor cores are fed with them: each becomes three of bfloat16 (tile/parts.cuh). Called by
// the launch of the forward.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/scratch.h"

namespace longstride::engine::cuda::sm90 {

// The parts of a [batch, len, heads, dim] tensor: one tensor of three times as many batch rows, the greatest parts
// first, its rows of a multiple of 16 bytes.
ConstTensorRef split_floats(const ConstTensorRef&, int64_t batch, int64_t len, int64_t heads, int64_t dim, Scratch&);

}  // namespace longstride::engine::cuda::sm90
