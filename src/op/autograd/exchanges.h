// A rank's attention, forward and backward, by the exchange of its call: what of the operators of op/parallel runs
// when, and what travels between them. Called by sharded.cc. Python's longstride.parallel does the same.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "op/autograd/ranks.h"
#include "op/autograd/sharded_call.h"

namespace longstride::op::autograd {

struct Attended {
  at::Tensor out, lse;
  torch::autograd::variable_list saved;  // what the backward wants
};
// Throw CommError.
Attended attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const ShardedCall&, Turn&);
// dq, dk, dv, and of a call with gates d_gates, of this rank's heads.
torch::autograd::variable_list attend_backward(const at::Tensor& d_out, const std::optional<at::Tensor>& d_lse,
                                               const torch::autograd::variable_list& saved, const ShardedCall&, Turn&);

}  // namespace longstride::op::autograd
