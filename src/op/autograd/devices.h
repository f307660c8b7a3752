// Devices whose tensors a group moves. Called by ranks.cc, sharded.cc and shards.cc. Python's longstride.parallel does
// the same (_ranks.py, _exchange.py).
#pragma once

#include "longstride/parallel.h"

namespace longstride::op::autograd {

// Where numbers that ranks compare travel: the CPU, or of a group that moves none there the current GPU.
at::Device host_of(const RankGroup&);

// Throws Error unless `tensor` is on the CPU or a CUDA device, and of one that `group`, if it has ranks, moves.
void check_device(const char* name, const at::Tensor& tensor, const RankGroup& group);

}  // namespace longstride::op::autograd
