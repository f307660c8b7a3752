// Attention over long sequences for LibTorch: the functions that everything else is built on. Differentiable,
// thread-safe. Link liblongstride, which also registers the operator torch.ops.longstride.attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "longstride/attention/engines.h"
#include "longstride/error.h"
#include "longstride/pattern.h"

namespace longstride {

// What a call may say of its sequences, of the functions here and of the modules alike.
struct CallOptions {
  std::optional<std::vector<int64_t>> cu_seqlens;  // packed documents: 0 = c0 <= c1 <= ... = len_k
  std::optional<std::vector<int64_t>> lengths;     // one per batch row: positions beyond it see and are seen by nothing
  // The same bits in every repeat, as under torch.use_deterministic_algorithms(True); on the CPU they always are.
  bool deterministic = false;
  // Of a call of a module whose sequences lie with several ranks (nn/placement.h): where their shards begin and end, as
  // Sharding of parallel.h has it; {0, len}: cut evenly; empty: all have as many rows. Lengths and documents are those
  // of the whole sequence then. An Error where this process holds all of it.
  std::vector<int64_t> boundaries;
};

struct AttentionOptions : CallOptions {
  std::optional<double> scale;             // of q.k; unset: 1 / sqrt(dim). A given 0.0 stays 0.0
  std::optional<int64_t> query_start;      // position of query 0 among the keys; unset requires len_q = len_k
  double dropout_p = 0.0;                  // on the attention probabilities, in [0, 1)
  std::optional<at::Tensor> dropout_seed;  // one int64 on q's device, required if dropout_p > 0
  // Only with a pattern of one explicit list of blocks: a gate for each block of it, [rows], dtype of lse, all 1. A
  // gate multiplies e^score of its block's pairs; it is there for its gradient, which is that of the list's own share
  // in a pair that dilated groups show too. What makes a pattern learnable: gates = 1 + score - score.detach().
  std::optional<at::Tensor> gates;
  // ALiBi: float32 [heads] on q's device, finite (which is looked at on the CPU alone), of any sign; slope_h * |q - k|
  // is taken off the score of query head h, q and k the positions of query and key. They get no gradient: slopes that
  // require one are an error.
  std::optional<at::Tensor> alibi_slopes;
};

struct AttentionResult {
  at::Tensor out;  // [batch, len_q, heads, dim], dtype of q, contiguous
  at::Tensor
      lse;  // [batch, heads, len_q], float32 (float64 for float64 inputs), natural log; -inf where nothing is seen
};

// q [batch, len_q, heads, dim]; k, v [batch, len_k, kv_heads, dim]; kv_heads divides heads. Any strides with dim
// contiguous. float32, bfloat16, float16 or float64; under autocast the inputs are cast as torch casts those of
// scaled_dot_product_attention. Differentiable in q, k, v through both results; a second derivative is refused.
// Throws Error (argument, expected, got, remedy) before any work.
AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern,
                          const AttentionOptions& options = {});

// The same for a pattern in JSON (pattern/json.h), whose one "list" without blocks of its own, if it has one, has those
// of `blocks`: int32 [rows, 4] on any device, {batch row or -1, KV head or -1, query block, key block}. On q's
// GPU they are planned where they are and nothing waits (docs/block_sparse.md says when); else they are read to the
// host. The operator torch.ops.longstride.attention takes the same.
AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const std::string& pattern_json, const std::optional<at::Tensor>& blocks = std::nullopt,
                          const AttentionOptions& options = {});

// Attention over the union of disjoint key sets from the results over each: out and lse as if computed at once, merged
// in float32 (float64 for float64 parts). All parts have equal shapes, dtypes and devices; at least one.
// Differentiable, any number of times, in every out and lse. A row that sees nothing in any part: out = 0, lse = -inf,
// no gradient.
AttentionResult merge(const std::vector<AttentionResult>& parts);

// A result as if every query saw one key more, of value 0 and logit `sink`: attention sinks as GPT-OSS has them.
// merge() with out = 0 and lse = sink. `sink` is of any floating-point dtype on out's device, the natural logarithm of
// a weight: [heads], [batch, heads] or [batch, heads, len_q]; -inf: no sink. Differentiable, any number of times, in
// out, lse and sink. A query that sees no key: out = 0, lse = sink.
AttentionResult with_sink(const AttentionResult& result, const at::Tensor& sink);

// One int64 on `device` drawn from torch's default generator of that device: what dropout_seed wants.
at::Tensor draw_dropout_seed(at::Device device);

// What attention() would do with these arguments, without doing it. Throws what attention() throws.
struct AttentionReport {
  std::string engine;         // the name of its report
  std::string plan;           // the forward plan in words, several lines
  int64_t plan_bytes = 0;     // of the forward plan
  double useful_flops = 0;    // of one forward, counted from the plan; a backward is 2.5 times that
  double nominal_flops = 0;   // of one forward, by the field's formula (plan.h)
  double keys_per_query = 0;  // (query, key) pairs that the engine multiplies, a query
};
AttentionReport describe_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const Pattern& pattern, const AttentionOptions& options = {});

}  // namespace longstride
