// Attention probabilities in torch's operators. The multiplicities are read off a compiled plan.
#include "longstride/attention/weights.h"

#include <ATen/Functions.h>
#include <ATen/TensorIndexing.h>
#include <fmt/format.h>

#include <limits>

#include "core/refuse.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"
#include "op/autograd/tensor.h"
#include "op/checks.h"
#include "op/problem.h"

namespace longstride {
namespace {

using at::Tensor;

constexpr int64_t kMostWeights = int64_t{1} << 26;

void check_options(const Pattern& pattern, const AttentionOptions& options, const op::Settings& settings) {
  if (settings.dropout_p != 0)
    core::refuse("dropout_p", "must be 0 for weights", settings.dropout_p,
                 "leave it out: weights are those that dropout has not touched");
  if (op::given(options.alibi_slopes)) {
    op::checks::check_gradient_of_slopes(options.alibi_slopes->requires_grad());
    if (!options.alibi_slopes->isfinite().all().item<bool>())
      core::refuse("alibi_slopes", "must be finite", "others", "a slope of 0 leaves a head as it is");
  }
  if (options.gates) core::refuse("gates", "must be unset for weights", "gates", "leave them out: they are all 1");
  if (pattern.options().padding == Padding::kZeroKeys && !pattern.causal())
    core::refuse("padding", "must be 'masked' for weights: phantom keys have no column", "'zero_keys'",
                 "take the same pattern with padding 'masked'");
}

// m of one class, [len_q, len_k], added up pair by pair.
Tensor multiplicities(const PlanView& plan, int64_t class_id, const Extent& e) {
  Tensor m = at::zeros({e.len_q, e.len_k}, at::kDouble);
  auto cells = m.accessor<double, 2>();
  for_each_pair(plan, plan.classes[class_id],
                [&](int64_t query, int64_t key, int32_t weight) { cells[query - e.query_start][key] += weight; });
  return m;
}

// `slopes` (a query head's for every one of `distances`) times distances, taken off logits.
Tensor biased(const Tensor& logits, const Tensor& slopes, const Tensor& distances) {
  return logits - slopes.to(logits.scalar_type()) * distances.to(logits.scalar_type());
}

// k of every query head.
Tensor for_query_heads(const Tensor& k, int64_t heads) { return k.repeat_interleave(heads / k.size(2), 2); }

}  // namespace

Tensor attention_weights(const Tensor& q, const Tensor& k, const Pattern& pattern, const AttentionOptions& options) {
  const op::autograd::Call call = op::autograd::make_call(pattern, options);
  const op::Views of = op::views_of(q, k, k);
  op::check_forward(of, call);
  check_options(pattern, options, call);
  const Extent e = op::extent_of(of, call);
  if (e.batch * e.heads * e.len_q * e.len_k > kMostWeights)
    core::refuse("len", fmt::format("must give at most {} weights", kMostWeights),
                 fmt::format("{} x {} x {} x {}", e.batch, e.heads, e.len_q, e.len_k),
                 "take fewer heads or tokens, or block_attention_weights()");
  const Plan plan = compile(pattern, e, {});
  std::vector<Tensor> of_class;
  for (size_t c = 0; c < plan.classes.size(); ++c) of_class.push_back(multiplicities(plan.view(), c, e));
  const at::ScalarType dtype = op::lse_dtype(q.scalar_type());
  if (e.batch * e.len_q * e.len_k == 0)
    return at::zeros({e.batch, e.heads, e.len_q, e.len_k}, q.options().dtype(dtype));
  std::vector<Tensor> by_place;
  for (const int32_t c : plan.class_of) by_place.push_back(of_class[c]);
  const Tensor m = at::stack(by_place)
                       .reshape({e.batch, e.kv_heads, e.len_q, e.len_k})
                       .repeat_interleave(e.heads / e.kv_heads, 1)
                       .to(q.options().dtype(dtype));
  const double scale = op::problem_of(op::dtype_of(q.scalar_type()), q.size(3), call, pattern, e).scale;
  const Tensor scores =
      at::matmul(q.to(dtype).transpose(1, 2), for_query_heads(k.to(dtype), e.heads).permute({0, 2, 3, 1}));
  const Tensor unseen = m == 0;
  const Tensor blind = unseen.all(-1, true);
  Tensor logits = scores * scale;
  if (op::given(options.alibi_slopes)) {
    const Tensor keys = at::arange(e.len_k, q.options().dtype(at::kLong));
    const Tensor queries = keys.slice(0, e.query_start, e.query_start + e.len_q).unsqueeze(1);
    logits = biased(logits, options.alibi_slopes->view({-1, 1, 1}), (queries - keys).abs());
  }
  logits = logits.masked_fill(unseen, -std::numeric_limits<double>::infinity()).masked_fill(blind, 0);
  // The weights would be lost beside large scores; relative to the greatest they are not.
  const Tensor relative = logits - logits.detach().amax(-1, true);
  return at::softmax(relative + m.masked_fill(unseen, 1).log(), -1).masked_fill(blind, 0);
}

BlockWeights block_attention_weights(const Tensor& q, const Tensor& k, const Pattern& pattern,
                                     const AttentionOptions& options) {
  if (!pattern.groups().empty() || pattern.blocks().size() != 1)
    core::refuse("pattern", "must be one block pattern",
                 fmt::format("{} groups and {} block patterns", pattern.groups().size(), pattern.blocks().size()),
                 "attention_weights() takes any pattern of a short sequence");
  if (options.cu_seqlens || options.lengths || options.query_start)
    core::refuse("options", "must leave cu_seqlens, lengths and query_start unset", "one of them",
                 "call it document by document");
  const op::autograd::Call call = op::autograd::make_call(pattern, options);
  check_options(pattern, options, call);
  const op::Views of = op::views_of(q, k, k);
  op::check_forward(of, call);
  const Extent e = op::extent_of(of, call);
  const BlockPattern& block = pattern.blocks().front();
  const int64_t size = block.block_size(), nb = (e.len_k + size - 1) / size;
  std::vector<int64_t> flat;
  for (int64_t b = 0; b < e.batch; ++b) {
    for (int64_t h = 0; h < e.heads; ++h) {
      for (const auto& [i, j] : block.active_blocks(e.len_k, pattern.causal(), h / (e.heads / e.kv_heads), b))
        flat.insert(flat.end(), {b, h, i, j});
    }
  }
  const at::ScalarType dtype = op::lse_dtype(q.scalar_type());
  const Tensor blocks = at::tensor(flat, at::kLong).reshape({-1, 4});
  if (blocks.size(0) == 0) return {blocks, at::zeros({0, size, size}, q.options().dtype(dtype))};
  const int64_t beyond = nb * size - e.len_k;
  const auto in_blocks = [&](const Tensor& t) {  // [batch, len, heads, dim] -> [batch, heads, nb, size, dim]
    return at::constant_pad_nd(t.to(dtype), {0, 0, 0, 0, 0, beyond}).transpose(1, 2).unflatten(2, {nb, size});
  };
  const std::vector<Tensor> at_rows = blocks.unbind(1);
  const Tensor queries = in_blocks(q).index({at_rows[0], at_rows[1], at_rows[2]});  // [n, size, dim]
  const Tensor keys = in_blocks(for_query_heads(k, e.heads)).index({at_rows[0], at_rows[1], at_rows[3]});
  const Tensor place = at::arange(size);
  const Tensor query_at = (at_rows[2] * size).unsqueeze(1) + place;  // [n, size]
  const Tensor key_at = (at_rows[3] * size).unsqueeze(1) + place;
  Tensor seen = (query_at < e.len_k).unsqueeze(2).logical_and((key_at < e.len_k).unsqueeze(1));
  if (pattern.causal()) seen = seen.logical_and(key_at.unsqueeze(1) <= query_at.unsqueeze(2));
  const double scale = op::problem_of(op::dtype_of(q.scalar_type()), q.size(3), call, pattern, e).scale;
  Tensor logits = at::matmul(queries, keys.transpose(1, 2)) * scale;
  if (op::given(options.alibi_slopes)) {
    const Tensor slopes = options.alibi_slopes->index({at_rows[1]}).view({-1, 1, 1});
    logits = biased(logits, slopes, (query_at.unsqueeze(2) - key_at.unsqueeze(1)).abs());
  }
  // A row's blocks share its greatest logit and its sum. lse would do, if it were not rounded: at large scores that
  // shows.
  const Tensor rows = (at_rows[0] * e.heads + at_rows[1]) * nb + at_rows[2];  // [n]
  const Tensor unseen = seen.logical_not();
  const Tensor highest = logits.detach().masked_fill(unseen, -std::numeric_limits<double>::infinity()).amax(2);
  const Tensor top =
      at::full({e.batch * e.heads * nb, size}, -std::numeric_limits<double>::infinity(), logits.options())
          .index_reduce(0, rows, highest, "amax");
  const Tensor relative = logits - top.index_select(0, rows).unsqueeze(2);
  const Tensor terms = at::where(seen, relative.masked_fill(unseen, 0).exp(), 0.0);
  const Tensor sums = at::zeros_like(top).index_add(0, rows, terms.sum(2)).index_select(0, rows).unsqueeze(2);
  return {blocks, terms / sums.masked_fill(sums == 0, 1)};
}

}  // namespace longstride
