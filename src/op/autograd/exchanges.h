// A rank's attention, forward and backward, by the exchange of its call: what of the operators of op/parallel runs
// when, and what travels between them. Called by sharded.cc, which makes the call. Python's longstride.parallel does
// the same.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <tuple>

#include "op/autograd/handed.h"
#include "op/autograd/ranks.h"

namespace longstride::op::autograd {

// A call that the ranks of a group have agreed on: what follows q, k and v in the operators of a rank, and what the
// exchange is told; kept for the backward.
struct ShardedCall {
  Call call;
  at::Tensor boundaries;
  std::string layout;
  RankGroup group;
  std::string description;
  std::vector<int64_t> sent, received;  // rows that go to each rank, and that come from each
  bool joined = false;                  // parts of a row are joined, for which 16 bits are too few
  bool travels = false;                 // whether any rank sends any row
  std::vector<int64_t> steps;           // of a ring, 0 first; none: all rows travel at once
  int64_t heads_among = 1;              // so many neighbouring ranks divide the heads
  int64_t step = -1;                    // of the operators: all
  int64_t share_of = 1;                 // of the operators: tensors have 1 / share_of of the heads

  // The operator longstride::name of these tensors, q, k and v the last of them, and this call.
  template <class Result, class... Tensors>
  Result run(const char* name, const Tensors&... tensors) const {
    return run_with<Result>(name, arguments_of(call), tensors...);
  }

  at::Tensor wide(const at::Tensor& t) const { return joined && t.scalar_type() != at::kDouble ? t.to(at::kFloat) : t; }

 private:
  template <class Result, class... Fields, class... Tensors>
  Result run_with(const char* name, const std::tuple<Fields...>& of_call, const Tensors&... tensors) const {
    using Signature =
        Result(const Tensors&..., const at::Tensor&, std::string_view, int64_t, int64_t, Fields..., int64_t, int64_t);
    const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
    const at::AutoDispatchBelowADInplaceOrView below;
    return std::apply(
        [&](const auto&... fields) {
          return handle.call(tensors..., boundaries, layout, group->getSize(), group->getRank(), fields..., step,
                             share_of);
        },
        of_call);
  }
};

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
