// What is refused before any work, for every kernel of this room. Shapes may be symbolic (a traced graph): what cannot
// be told from symbols is left to the run.
#pragma once

#include "core/dtype.h"
#include "op/call.h"

namespace longstride::op {

// Checks everything that does not need the numbers of the lengths, and gives the pattern. Throws Error.
Pattern check_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
// The same, and what came out of the forward.
Pattern check_backward(const BackwardInputs&, const Call&);

// The lengths of a checked call, validated. Sizes and lengths must be numbers.
Extent extent_of(const at::Tensor& q, const at::Tensor& k, const Call&);
// Whether they are.
bool has_numbers(const at::Tensor& q, const at::Tensor& k, const Call&);

// Whether the call wants the gradient of gates.
bool has_gates(const Call&);

// q's dtype, which check_forward has seen to be one of ours.
core::DType dtype_of(const at::Tensor& q);
// Of lse: float32, or float64 for float64 inputs.
at::ScalarType lse_dtype(const at::Tensor& q);

}  // namespace longstride::op
