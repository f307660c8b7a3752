// What is refused before any work, for every kernel of this room. Shapes may be symbolic (a traced graph): what cannot
// be told from symbols is left to the run.
#pragma once

#include <memory>

#include "core/dtype.h"
#include "op/call.h"

namespace longstride::op {

// What autograd wants to know before it records a call: sizes, which only an array has. Throws Error.
void check_all_dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
void check_all_dense(const BackwardInputs&, const Call&);

// Checks everything that does not need the numbers of the lengths, and gives the pattern; blocks without numbers (a
// traced graph) are taken for none. Throws Error.
std::shared_ptr<const Pattern> check_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                             const Call&);
// The same, and what came out of the forward.
std::shared_ptr<const Pattern> check_backward(const BackwardInputs&, const Call&);

// The lengths of a checked call, validated. Sizes must be numbers, and cu_seqlens and lengths have them: on the host
// they are read where they are, from a device they are copied, which waits for it.
Extent extent_of(const at::Tensor& q, const at::Tensor& k, const Call&);
// Whether they are.
bool has_numbers(const at::Tensor& q, const at::Tensor& k, const Call&);

// Whether the call wants the gradient of gates.
bool has_gates(const Call&);

// Whether a tensor is float32, float64, float16 or bfloat16.
bool has_our_dtype(const at::Tensor&);
// q's dtype, which check_forward has seen to be one of ours.
core::DType dtype_of(const at::Tensor& q);
// Of lse: float32, or float64 for float64 inputs.
at::ScalarType lse_dtype(const at::Tensor& q);

}  // namespace longstride::op
