// The path of one call on a device: checks -> extent -> problem -> engine -> plan -> launch. Each step takes values and
// yields a value; called by the dispatcher below autograd.
#include "op/device.h"

#include <ATen/Functions.h>
#include <c10/core/DeviceGuard.h>

#include <cmath>

#include "core/refuse.h"
#include "op/checks.h"
#include "op/engines.h"
#include "op/gates.h"
#include "op/kernels.h"
#include "op/memory.h"

namespace longstride::op {
namespace {

using at::Tensor;

engine::ConstTensorRef read(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }
engine::TensorRef write(const Tensor& t) { return {t.mutable_data_ptr(), t.stride(0), t.stride(1), t.stride(2)}; }

void attach(engine::Problem& problem, const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  problem.q = read(q);
  problem.k = read(k);
  problem.v = read(v);
  if (call.dropout_p > 0) problem.dropout_seed = call.dropout_seed->const_data_ptr<int64_t>();
}

// The one list of a pattern, and the size of its blocks.
std::pair<const BlockList*, int64_t> list_of(const Pattern& pattern) {
  for (const BlockPattern& block : pattern.blocks()) {
    if (const auto* list = std::get_if<BlockList>(&block.rule())) return {list, block.block_size()};
  }
  return {nullptr, 1};
}

}  // namespace

engine::Problem problem_of(const Tensor& q, const Tensor& k, const Call& call, const Pattern& pattern,
                           const Extent& extent) {
  engine::Problem problem;
  problem.dtype = dtype_of(q);
  problem.batch = extent.batch;
  problem.heads = extent.heads;
  problem.kv_heads = k.size(2);
  problem.len_q = extent.len_q;
  problem.len_k = extent.len_k;
  problem.dim = q.size(3);
  problem.query_start = extent.query_start;
  problem.scale = call.scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3))));
  problem.out_scale = pattern.out_scale();
  problem.dropout_p = call.dropout_p;
  problem.deterministic = call.deterministic;
  return problem;
}

Outputs forward_device(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  const std::shared_ptr<const Pattern> pattern = check_forward(q, k, v, call);
  const Extent extent = extent_of(q, k, call);
  engine::Problem problem = problem_of(q, k, call, *pattern, extent);
  const c10::DeviceGuard on_device(q.device());
  const Engine& engine = choose_engine(q.device(), problem);
  if (has_gates(call) && !call.gates->eq(1).all().item<bool>())
    core::refuse("gates", "must all be 1: they are there for their gradient", "other values",
                 "pass 1 + score - score.detach()");

  const Tensor out = empty_result(q.sizes(), q.options());  // [batch, len_q, heads, dim]
  const Tensor lse = at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(lse_dtype(q)));
  if (q.numel() == 0) return {out, lse};

  const Loan loan = lend(q.device());
  Plans plans;
  plans.forward = plan_for(engine, problem, *pattern, extent, Direction::kForward, loan.capturing);
  attach(problem, q, k, v, call);
  problem.out = write(out);
  problem.lse = lse.mutable_data_ptr();
  engine.forward(problem, plans, loan);
  note_engine(engine);
  return {out, lse};
}

InputGrads backward_device(const BackwardInputs& in, const Call& call) {
  const std::shared_ptr<const Pattern> pattern = check_backward(in, call);
  const Extent extent = extent_of(in.q, in.k, call);
  engine::Problem problem = problem_of(in.q, in.k, call, *pattern, extent);
  const c10::DeviceGuard on_device(in.q.device());
  const Engine& engine = choose_engine(in.q.device(), problem);

  if (in.q.numel() == 0)  // no query: what keys there are get a zero gradient
    return {at::empty(in.q.sizes(), in.q.options()), at::zeros(in.k.sizes(), in.k.options()),
            at::zeros(in.v.sizes(), in.v.options()),
            has_gates(call) ? at::zeros_like(*call.gates) : at::empty({0}, in.lse.options())};
  const Tensor dq = empty_result(in.q.sizes(), in.q.options());  // [batch, len_q, heads, dim]
  const Tensor dk = empty_result(in.k.sizes(), in.k.options());  // [batch, len_k, kv_heads, dim]
  const Tensor dv = empty_result(in.v.sizes(), in.v.options());
  // Gradients come in whatever layout autograd made (a sum gives an expanded scalar), and out may have been laid out
  // anew by a compiler: these two are copied if they must be; q, k and v never.
  const auto with_contiguous_dim = [](const Tensor& t) {
    return t.stride(3) == 1 || t.size(3) == 1 ? t : t.contiguous();
  };
  const Tensor d_out = with_contiguous_dim(in.d_out);
  const Tensor out = with_contiguous_dim(in.out);
  const Tensor lse = in.lse.contiguous();
  const Tensor d_lse = in.d_lse && in.d_lse->defined() ? in.d_lse->contiguous() : Tensor();

  const Loan loan = lend(in.q.device());
  Plans plans;
  plans.transposed = plan_for(engine, problem, *pattern, extent, Direction::kTransposed, loan.capturing);
  if (engine.backward_wants_forward_plan(problem))
    plans.forward = plan_for(engine, problem, *pattern, extent, Direction::kForward, loan.capturing);
  attach(problem, in.q, in.k, in.v, call);
  // The backward reads out and lse only; the contract has one Problem for both directions, hence the casts.
  problem.out = {const_cast<void*>(out.const_data_ptr()), out.stride(0), out.stride(1), out.stride(2)};
  problem.lse = const_cast<void*>(lse.const_data_ptr());
  engine::Gradients gradients;
  gradients.d_out = read(d_out);
  gradients.d_lse = d_lse.defined() ? d_lse.const_data_ptr() : nullptr;
  gradients.dq = write(dq);
  gradients.dk = write(dk);
  gradients.dv = write(dv);
  if (!has_gates(call)) {
    engine.backward(problem, gradients, plans, loan);
    note_engine(engine);
    return {dq, dk, dv, at::empty({0}, lse.options())};
  }
  const auto [list, block_size] = list_of(*pattern);
  const GateIndex index(list->blocks, block_size, extent);
  const Tensor entry_grads = at::empty({index.entries()}, lse.options());
  engine::GateBlocks gates = index.view();
  gates.grad = entry_grads.mutable_data_ptr();
  gates.causal = pattern->causal();
  if (!extent.lengths.empty()) gates.lengths = extent.lengths.data();
  gradients.gates = &gates;
  engine.backward(problem, gradients, plans, loan);
  note_engine(engine);
  return {dq, dk, dv, index.by_row(entry_grads)};
}

}  // namespace longstride::op
