// Attention over long sequences for LibTorch: the functions that everything else is built on. Differentiable, thread-safe.
// Link liblongstride, which also registers the operators torch.ops.longstride.*.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "longstride/error.h"
#include "longstride/pattern.h"

namespace longstride {

struct AttentionOptions {
  std::optional<double> scale;                     // of q.k; unset: 1 / sqrt(dim). A given 0.0 stays 0.0
  std::optional<std::vector<int64_t>> cu_seqlens;  // packed documents: 0 = c0 <= c1 <= ... = len_k
  std::optional<std::vector<int64_t>> lengths;     // one per batch row: positions beyond it see and are seen by nothing
  std::optional<int64_t> query_start;              // position of query 0 among the keys; unset requires len_q = len_k
  double dropout_p = 0.0;                          // on the attention probabilities, in [0, 1)
  std::optional<at::Tensor> dropout_seed;          // one int64 on q's device, required iff dropout_p > 0
  bool deterministic = false;
};

struct AttentionResult {
  at::Tensor out;  // [batch, len_q, heads, dim], dtype of q
  at::Tensor lse;  // [batch, heads, len_q], float32 (float64 for float64 inputs), natural log; -inf where nothing is seen
};

// q [batch, len_q, heads, dim]; k, v [batch, len_k, kv_heads, dim]; kv_heads divides heads. Any strides with dim
// contiguous. float32, bfloat16, float16 or float64. Differentiable in q, k, v through both results; a second derivative
// is refused. Throws Error (argument, got, expected, remedy) before any work.
AttentionResult attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern,
                          const AttentionOptions& options = {});

// Attention over the union of disjoint key sets from the results over each: out and lse as if computed at once.
// All parts have equal shapes. Differentiable in every out and lse.
AttentionResult merge(const std::vector<AttentionResult>& parts);

// One int64 on `device` drawn from torch's default generator: what dropout_seed wants.
at::Tensor draw_dropout_seed(at::Device device);

}  // namespace longstride
