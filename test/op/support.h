// What the op's tests share: tensors of a Case, plain patterns, and the same formula in torch as a peer.
#pragma once

#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <functional>
#include <string>
#include <vector>

#include "longstride/attention.h"
#include "test/engine/cases.h"

namespace longstride::test {

// What attention() is called with for a Case. q, k, v are leaves that require grad, strided as the case's layout says,
// with NaN in the gaps.
struct CallTensors {
  at::Tensor q, k, v;
  at::Tensor d_out;  // [batch, len_q, heads, dim]
  at::Tensor d_lse;  // [batch, heads, len_q], undefined if the case has none
  AttentionOptions options;
};
CallTensors tensors_of(const Case&);

// Results as dense doubles, in the shapes of oracle/attention.h.
struct OpResults {
  std::vector<double> out, lse, dq, dk, dv;
};
OpResults run_op(const Case&);

// The definition of the forward in torch's operators, dense, in the case's dtype: what rounding alone does to it.
struct OpForward {
  std::vector<double> out, lse;
};
OpForward run_peer(const Case&);

std::vector<double> values(const at::Tensor&);
at::ScalarType scalar_type(core::DType);

// Normal values, seeded, [batch, len, heads, dim].
at::Tensor normal(uint64_t seed, at::IntArrayRef shape, at::ScalarType dtype = at::kFloat);

// Whether two tensors hold the same bits.
bool same_bits(const at::Tensor&, const at::Tensor&);

// The message of the Error that `body` throws; fails the test, with "", if it throws none or something else.
std::string refusal(const std::function<void()>& body);

}  // namespace longstride::test
