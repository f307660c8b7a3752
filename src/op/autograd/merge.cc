// Merges partial results by their softmax denominators: out = sum_i e^(lse_i - lse) out_i, lse = ln sum_i e^lse_i; adds
// sinks, which are such a part.
// Written in torch's differentiable operators: the gradient is exact and can be differentiated again.
#include <ATen/Functions.h>
#include <fmt/format.h>

#include <limits>
#include <sstream>

#include "core/refuse.h"
#include "longstride/attention.h"
#include "op/autograd/tensor.h"
#include "op/handed_in.h"

namespace longstride {
namespace {

using at::Tensor;

std::string shape(c10::SymIntArrayRef sizes) {
  std::ostringstream stream;
  stream << "shape " << sizes;
  return stream.str();
}
std::string shape(const Tensor& t) { return shape(t.sym_sizes()); }

void check(const std::vector<AttentionResult>& parts) {
  if (parts.empty()) core::refuse("parts", "must have at least one result", "none");
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [out, lse] = parts[i];
    const std::string name = fmt::format("parts[{}]", i);
    if (!out.defined() || !lse.defined()) core::refuse(name, "must have out and lse", "an undefined tensor");
    op::check_handed_in(name + ".out", op::view_of(out));
    op::check_handed_in(name + ".lse", op::view_of(lse));
    if (out.dim() != 4)
      core::refuse(name + ".out", "must have the 4 dimensions [batch, len_q, heads, dim]", shape(out));
    const std::vector<c10::SymInt> rows = {out.sym_size(0), out.sym_size(2), out.sym_size(1)};
    if (lse.sym_sizes() != c10::SymIntArrayRef(rows))
      core::refuse(name + ".lse", "must be [batch, heads, len_q] of its out, " + shape(rows), shape(lse));
    const auto& [first_out, first_lse] = parts[0];
    if (i == 0 && !op::is_our_dtype(out.scalar_type()))
      core::refuse(name + ".out", "must be float32, bfloat16, float16 or float64", at::toString(out.scalar_type()));
    if (i == 0 && lse.scalar_type() != op::lse_dtype(out.scalar_type()))
      core::refuse(name + ".lse",
                   fmt::format("must be {}, as attention() gives it with this out",
                               at::toString(op::lse_dtype(out.scalar_type()))),
                   at::toString(lse.scalar_type()));
    if (out.sym_sizes() != first_out.sym_sizes())
      core::refuse(name + ".out", "must have the shape of the first part, " + shape(first_out), shape(out));
    if (out.scalar_type() != first_out.scalar_type() || lse.scalar_type() != first_lse.scalar_type())
      core::refuse(name,
                   fmt::format("must have the dtypes of the first part, {} and {}",
                               at::toString(first_out.scalar_type()), at::toString(first_lse.scalar_type())),
                   fmt::format("{} and {}", at::toString(out.scalar_type()), at::toString(lse.scalar_type())));
    if (out.device() != first_out.device() || lse.device() != first_out.device())
      core::refuse(name, "must be on the device of the first part, " + first_out.device().str(),
                   fmt::format("{} and {}", out.device().str(), lse.device().str()));
  }
}

void check_sink(const AttentionResult& result, const Tensor& sink) {
  if (!sink.defined()) core::refuse("sink", "must be a floating-point tensor", "an undefined tensor");
  op::check_handed_in("sink", op::view_of(sink));
  if (!at::isFloatingType(sink.scalar_type()))
    core::refuse("sink", "must be a floating-point tensor", at::toString(sink.scalar_type()));
  const c10::SymIntArrayRef rows = result.lse.sym_sizes();  // [batch, heads, len_q]
  if (sink.sym_sizes() != rows.slice(1, 1) && sink.sym_sizes() != rows.slice(0, 2) && sink.sym_sizes() != rows)
    core::refuse("sink",
                 "must be [heads], [batch, heads] or [batch, heads, len_q] of a result with lse of " + shape(rows),
                 shape(sink));
  if (sink.device() != result.out.device())
    core::refuse("sink", "must be on the device of out, " + result.out.device().str(), sink.device().str(),
                 "move it with to()");
}

}  // namespace

AttentionResult with_sink(const AttentionResult& result, const Tensor& sink) {
  check({result});
  check_sink(result, sink);
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  const Tensor& lse = result.lse;
  Tensor logit = sink.to(lse.scalar_type());
  if (sink.dim() < 3) logit = logit.unsqueeze(-1);  // [(batch,) heads, 1 or len_q]
  // Rows without a key and a sink are kept out of the gradient, which is NaN there.
  const Tensor nothing = at::logical_and(lse == kNothing, logit == kNothing);
  const Tensor total = at::logaddexp(lse.masked_fill(nothing, 0), logit.masked_fill(nothing, 0));
  const Tensor share = (lse - total).exp().transpose(1, 2).unsqueeze(-1);  // [batch, len_q, heads, 1]
  const Tensor out = result.out.to(lse.scalar_type()) * share;
  return {out.to(result.out.scalar_type()), total.masked_fill(nothing, kNothing)};
}

AttentionResult merge(const std::vector<AttentionResult>& parts) {
  check(parts);
  constexpr double kNothing = -std::numeric_limits<double>::infinity();
  std::vector<Tensor> all;
  for (const AttentionResult& part : parts) all.push_back(part.lse);
  const Tensor lses = at::stack(all);                    // [parts, batch, heads, len_q]
  const Tensor largest = lses.detach().amax(0);          // a shift that cancels: no gradient goes through it
  const Tensor nothing = largest == kNothing;            // rows that see nothing anywhere
  const Tensor shift = largest.masked_fill(nothing, 0);  // -inf - -inf would be NaN
  const Tensor shares = (lses - shift).exp();            // in [0, 1], the largest 1
  // ln 0 and 1 / 0 are kept out of the gradient too: these rows get the constant in their place.
  const Tensor sum = shares.sum(0).masked_fill(nothing, 1);
  const Tensor weights = (shares / sum).transpose(2, 3).unsqueeze(-1);  // [parts, batch, len_q, heads, 1]
  Tensor out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor term = parts[i].out.to(lses.scalar_type()) * weights[static_cast<int64_t>(i)];
    out = out.defined() ? out + term : term;
  }
  return {out.to(parts[0].out.scalar_type()), (sum.log() + shift).masked_fill(nothing, kNothing)};
}

}  // namespace longstride
