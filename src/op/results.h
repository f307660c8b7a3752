// Tensors that a call gives. Called by device.cc.
#pragma once

#include "op/tensor.h"

namespace longstride::op {

// A contiguous tensor whose values are yet to be written. Large ones on the CPU come from the process's pool, to which
// they return with their last reference. Throws Error for more than the machine's memory; where there is no more,
// std::bad_alloc, or for what LibTorch allocates what out_of_memory() does.
Tensor empty_result(Sizes, ScalarType, Place);

}  // namespace longstride::op
