// What ranks tell one another about the blocks of a sequence that lies with them. Called by BlockScorer.
#pragma once

#include "op/autograd/pieces.h"
#include "op/autograd/ranks.h"

namespace longstride::nn {

// rows [rows of the shard, n] -> [blocks, n]: the sum of each block's rows, on every rank. Each rank sends all others
// the sums of the blocks that it has rows of; a block that lies with several is their sum in ascending order, which is
// the same everywhere. Throws CommError, as below.
at::Tensor block_sums(op::autograd::Turn&, const at::Tensor& rows, int64_t block_size, const op::autograd::Pieces&);

// The first rank's values; every rank gives a tensor of their shape and dtype.
at::Tensor of_first(op::autograd::Turn&, const at::Tensor&);

}  // namespace longstride::nn
