// Tensors that a call gives. Called by device.cc.
#pragma once

#include "op/gates.h"
#include "op/tensor.h"

namespace longstride::op {

// A contiguous tensor whose values are yet to be written. Large ones on the CPU come from the process's pool, to which
// they return with their last reference. Throws Error for more than the machine's memory; where there is no more,
// std::bad_alloc, or for what LibTorch allocates what out_of_memory() does.
Tensor empty_result(Sizes, ScalarType, Place);

// [rows]: the sum over the entries of each row, from the entries' gradients [entries].
Tensor by_row(const GateIndex&, const Tensor& entry_grads);

}  // namespace longstride::op
