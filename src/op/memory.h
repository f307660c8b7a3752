// Memory of results and scratch on the CPU. Called by device.cc and engines.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/contract.h"

namespace longstride::op {

// A contiguous tensor whose values are yet to be written. Large ones on the CPU come from the process's pool, to which
// they return with their last reference, and so does what they are resized to. Throws Error for more than the
// machine's memory, std::bad_alloc where there is no more.
at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions&);

// Large scratch from the pool, the rest from LibTorch's allocator.
void lend_memory(engine::Workspace&);

}  // namespace longstride::op
