// The gates of a call as tensors: what is refused of their values, and their gradient, which an engine gives by ranges
// and a caller wants by rows of `blocks`. Called by the kernels of a call and of a rank's.
#pragma once

#include <functional>

#include "op/gates.h"
#include "op/tensor.h"

namespace longstride::op {

// Throws Error unless all are 1. On a device they are copied, which waits for it.
void check_ones(const Tensor& gates);

// d_gates [rows] of a pattern's one list, in `dtype`: `run` has an engine write the gradients of the list's ranges. KV
// heads of the extent are those from `first_kv_head` on of all.
Tensor gate_grads(const Pattern&, const Extent&, ScalarType dtype, Place, int64_t first_kv_head,
                  const std::function<void(const engine::Gates&)>& run);

}  // namespace longstride::op
