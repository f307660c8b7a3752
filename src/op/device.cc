// The path of one call on a device: checks -> extent -> problem -> engine -> plan -> launch. Each step takes values and
// yields a value; called by the dispatcher below autograd.
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <cmath>

#include "core/refuse.h"
#include "op/checks.h"
#include "op/device_list.h"
#include "op/engines.h"
#include "op/gate_grads.h"
#include "op/kernels.h"
#include "op/problem.h"
#include "op/refs.h"

namespace longstride::op {
namespace {

void attach(engine::Problem& problem, const Tensor& q, const Tensor& k, const Tensor& v, const Call& call,
            const std::optional<Tensor>& slopes) {
  problem.q = read(q);
  problem.k = read(k);
  problem.v = read(v);
  if (call.dropout_p > 0) problem.dropout_seed = static_cast<const int64_t*>(call.dropout_seed->const_data_ptr());
  if (slopes) problem.alibi_slopes = static_cast<const float*>(slopes->const_data_ptr());
}

// Makes the tensors' device the current one; the CPU needs nothing.
std::optional<torch::stable::accelerator::DeviceGuard> guard(Place place) {
  std::optional<torch::stable::accelerator::DeviceGuard> on_device;
  if (place.is_cuda()) on_device.emplace(place.index);
  return on_device;
}

}  // namespace

engine::Problem problem_of(core::DType dtype, int64_t dim, const Settings& settings, const Pattern& pattern,
                           const Extent& extent) {
  engine::Problem problem;
  problem.dtype = dtype;
  problem.batch = extent.batch;
  problem.heads = extent.heads;
  problem.kv_heads = extent.kv_heads;
  problem.len_q = extent.len_q;
  problem.len_k = extent.len_k;
  problem.dim = dim;
  problem.query_start = extent.query_start;
  problem.scale = settings.scale.value_or(1.0 / std::sqrt(static_cast<double>(dim)));
  problem.out_scale = pattern.out_scale();
  problem.dropout_p = settings.dropout_p;
  problem.deterministic = settings.deterministic;
  return problem;
}

Outputs forward_device(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  const Views of = views_of(q, k, v);
  const ArrayView<int64_t>& of_q = of.q;
  std::shared_ptr<const Pattern> pattern = check_forward(of, call);
  const Extent extent = extent_of(of, call);
  engine::ForwardProblem problem{problem_of(dtype_of(of_q.dtype), of_q.sizes[3], call, *pattern, extent)};
  const auto on_device = guard(of_q.place);
  const Engine& engine = choose_engine(of_q.place, problem);
  const std::optional<Tensor> slopes = slopes_of(call);
  const std::optional<DeviceList> listed = DeviceList::of(engine, problem, *pattern, extent, q, call);
  if (!listed) pattern = with_rows(pattern, q, call);
  if (has_gates(call) && !listed) check_ones(*call.gates);

  const Tensor out = empty_result(of_q.sizes, of_q.dtype, of_q.place);  // [batch, len_q, heads, dim]
  const Tensor lse = empty(std::array{extent.batch, extent.heads, extent.len_q}, lse_dtype(of_q.dtype), of_q.place);
  if (q.numel() == 0) return {out, lse};

  const Loan loan = lend(of_q.place);
  Plans plans;
  const engine::BlocksOnDevice list = listed ? listed->view() : engine::BlocksOnDevice();
  if (listed) {
    plans.list = &list;
  } else {
    plans.forward = forward_plan(engine, problem, *pattern, extent, loan.capturing);
  }
  attach(problem, q, k, v, call, slopes);
  problem.out = write(out);
  problem.lse = lse.mutable_data_ptr();
  engine.forward(problem, plans, loan);
  note_engine(engine);
  return {out, lse};
}

CallReport describe_device(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  const Views of = views_of(q, k, v);
  const std::shared_ptr<const Pattern> pattern = with_rows(check_forward(of, call), q, call);
  const Extent extent = extent_of(of, call);
  engine::Problem problem = problem_of(dtype_of(of.q.dtype), of.q.sizes[3], call, *pattern, extent);
  problem.alibi = given(call.alibi_slopes);
  const auto on_device = guard(of.q.place);
  return report_call(choose_engine(of.q.place, problem), problem, *pattern, extent);
}

InputGrads backward_device(const BackwardInputs& in, const Call& call) {
  const Views of = views_of(in.q, in.k, in.v);
  const ArrayView<int64_t>&of_q = of.q, &of_k = of.k;
  std::shared_ptr<const Pattern> pattern = check_backward(of, in, call);
  const Extent extent = extent_of(of, call);
  engine::BackwardProblem problem{problem_of(dtype_of(of_q.dtype), of_q.sizes[3], call, *pattern, extent)};
  const auto on_device = guard(of_q.place);
  const Engine& engine = choose_engine(of_q.place, problem);
  const std::optional<Tensor> slopes = slopes_of(call);
  const std::optional<DeviceList> listed = DeviceList::of(engine, problem, *pattern, extent, in.q, call);
  if (!listed) pattern = with_rows(pattern, in.q, call);
  const auto like_lse = [&](int64_t size, auto make) {
    return make(std::array{size}, lse_dtype(of_q.dtype), of_q.place);
  };

  if (in.q.numel() == 0)  // no query: what keys there are get a zero gradient
    return {empty(of_q.sizes, of_q.dtype, of_q.place), zeros(of_k.sizes, of_q.dtype, of_q.place),
            zeros(of_k.sizes, of_q.dtype, of_q.place), like_lse(has_gates(call) ? call.gates->size(0) : 0, zeros)};
  const Tensor dq = empty_result(of_q.sizes, of_q.dtype, of_q.place);  // [batch, len_q, heads, dim]
  const Tensor dk = empty_result(of_k.sizes, of_q.dtype, of_q.place);  // [batch, len_k, kv_heads, dim]
  const Tensor dv = empty_result(of_k.sizes, of_q.dtype, of_q.place);
  // Gradients come in whatever layout autograd made (a sum gives an expanded scalar), and out may have been laid out
  // anew by a compiler: these two are copied if they must be; q, k and v never.
  const Tensor d_out = with_contiguous_dim(in.d_out);
  const Tensor out = with_contiguous_dim(in.out);
  const Tensor lse = contiguous(in.lse);
  const Tensor d_lse = given(in.d_lse) ? contiguous(*in.d_lse) : lse;  // read if it was given

  const Loan loan = lend(of_q.place);
  Plans plans;
  const auto plan = [&](Direction direction) {
    return plan_for(engine, problem, *pattern, extent, direction, Pass::kBackward, loan.capturing);
  };
  if (!listed) {
    plans.transposed = plan(Direction::kTransposed);
    if (engine.backward_wants_forward_plan(problem)) plans.forward = plan(Direction::kForward);
  }
  attach(problem, in.q, in.k, in.v, call, slopes);
  problem.out = read(out);
  problem.lse = lse.const_data_ptr();
  problem.d_out = read(d_out);
  problem.d_lse = given(in.d_lse) ? d_lse.const_data_ptr() : nullptr;
  problem.dq = write(dq);
  problem.dk = write(dk);
  problem.dv = write(dv);
  if (listed || !has_gates(call)) {
    const Tensor d_gates = like_lse(has_gates(call) ? call.gates->size(0) : 0, empty);
    const engine::BlocksOnDevice list =
        listed ? listed->view(has_gates(call) ? d_gates.mutable_data_ptr() : nullptr) : engine::BlocksOnDevice();
    if (listed) plans.list = &list;
    engine.backward(problem, plans, loan);
    note_engine(engine);
    return {dq, dk, dv, d_gates};
  }
  const Tensor d_gates =
      gate_grads(*pattern, extent, lse_dtype(of_q.dtype), of_q.place, 0, [&](const engine::Gates& gates) {
        problem.gates = &gates;
        engine.backward(problem, plans, loan);
      });
  note_engine(engine);
  return {dq, dk, dv, d_gates};
}

}  // namespace longstride::op
