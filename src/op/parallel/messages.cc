// Tensors of a rank and its calls of the engine, made of a RankCall.
#include "op/parallel/messages.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/refuse.h"
#include "op/checks.h"

namespace longstride::op {
namespace {

std::array<int64_t, 2> sizes_of(const RankCall& call, const std::vector<parallel::Message>& messages) {
  return {parallel::rows_in(messages), 2 * call.problem().dim};
}

void check_sizes(std::string_view name, const Tensor& tensor, const RankCall& call, std::span<const int64_t> sizes,
                 ScalarType dtype) {
  const ArrayView<int64_t> t = Access<Tensor>::view(tensor);
  check_handed_in(name, t);
  if (t.place != call.place()) core::refuse(name, "must be on the device of q, " + text(call.place()), text(t.place));
  if (!std::ranges::equal(t.sizes, sizes)) core::refuse(name, "must have the shape " + text(sizes), checks::shape(t));
  if (t.dtype != dtype) core::refuse(name, fmt::format("must be {}", toString(dtype)), toString(t.dtype));
}

}  // namespace

Tensor empty_message(const RankCall& call, const std::vector<parallel::Message>& messages, ScalarType dtype) {
  return empty_result(sizes_of(call, messages), dtype, call.place());
}

std::array<int64_t, 4> sizes_of_out(const engine::Problem& p) { return {p.batch, p.len_q, p.heads, p.dim}; }
std::array<int64_t, 4> sizes_of_shard_keys(const engine::Problem& p) { return {p.batch, p.len_k, p.kv_heads, p.dim}; }
std::array<int64_t, 3> sizes_of_lse(const engine::Problem& p) { return {p.batch, p.heads, p.len_q}; }

std::array<int64_t, 4> sizes_of_keys(const RankCall& call) {
  return {call.rank().places(), call.rank().gathered.keys, 2, call.problem().dim};
}

std::array<int64_t, 4> sizes_of_queries(const RankCall& call) {
  const engine::Problem& p = call.problem();
  return {p.batch, p.heads, call.rank().gathered.queries, p.dim};
}

void check_contiguous(std::string_view name, const Tensor& tensor, const RankCall& call, std::span<const int64_t> sizes,
                      ScalarType dtype) {
  check_sizes(name, tensor, call, sizes, dtype);
  if (!tensor.is_contiguous())
    core::refuse(name, "must be contiguous", "strides " + text(Access<Tensor>::view(tensor).strides));
}

void check_message(std::string_view name, const Tensor& message, const RankCall& call,
                   const std::vector<parallel::Message>& messages, ScalarType dtype) {
  check_contiguous(name, message, call, sizes_of(call, messages), dtype);
}

void check_results(const Tensor& out, const Tensor& lse, const RankCall& call) {
  check_contiguous("out", out, call, sizes_of_out(call.problem()), call.dtype());
  check_contiguous("lse", lse, call, sizes_of_lse(call.problem()), call.wide_dtype());
}

void check_like_results(const RankCall& call, const Tensor& d_out, const std::optional<Tensor>& d_lse,
                        const Tensor& out, const Tensor& lse) {
  check_sizes("d_out", d_out, call, sizes_of_out(call.problem()), call.dtype());
  check_sizes("out", out, call, sizes_of_out(call.problem()), call.dtype());
  check_sizes("lse", lse, call, sizes_of_lse(call.problem()), call.wide_dtype());
  if (given(d_lse)) check_sizes("d_lse", *d_lse, call, sizes_of_lse(call.problem()), call.wide_dtype());
}

parallel::ForwardEngine forward_engine(const RankCall& call) {
  return [&call](const engine::ForwardProblem& problem, const PlanPointer& plan) {
    call.engine().forward(problem, {.forward = plan}, call.loan());
    note_engine(call.engine());
  };
}

parallel::BackwardEngine backward_engine(const RankCall& call) {
  return [&call](const engine::BackwardProblem& problem, const PlanPointer& transposed, const PlanPointer& forward) {
    call.engine().backward(problem, {.forward = forward, .transposed = transposed}, call.loan());
    note_engine(call.engine());
  };
}

HeldPlans::HeldPlans(const RankCall& call) : transposed(call.plans(Direction::kTransposed, Pass::kBackward)) {
  if (call.engine().backward_wants_forward_plan(call.problem()))
    forward = call.plans(Direction::kForward, Pass::kBackward);
}

}  // namespace longstride::op
