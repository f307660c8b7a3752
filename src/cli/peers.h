// What `longstride bench` and `doctor` compare with: dense attention, LongNet's published algorithm on torch's
// operators (as its users run it, and written for speed), and the rate of the micro-GEMM alone. All on the CPU, in the
// caller's process and thread pool.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "longstride/pattern.h"

namespace longstride::cli {

struct PeerResult {
  at::Tensor out;  // [batch, len, heads, dim]
  at::Tensor lse;  // [batch, heads, len]; not defined for dense_sdpa
};

// torch's scaled_dot_product_attention over all pairs. q [batch, len, heads, dim]; k, v [batch, len, kv_heads, dim].
// Differentiable.
PeerResult dense_sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal);

// Why per_group cannot run this pattern at this length (empty: it can). It needs dilated groups alone, joint mixing,
// masked padding, and for every group min(segment, len) divides len and is a multiple of the rate: elsewhere the
// published algorithm pads.
std::string per_group_refusal(const Pattern& pattern, int64_t len);

// LongNet's algorithm: every group gathers its sampled rows, runs dense flash attention on them, and the groups'
// outputs are scattered and averaged with weights from their softmax denominators. As in torchscale, the weights are
// constants to the gradient: out, lse and dv are the exact ones, dq and dk lack the part that flows through the mixing.
// Written as well as torch's operators allow: no dense tensor per group, one pass to mix. Throws Error with
// per_group_refusal().
PeerResult per_group(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern);

// The same algorithm in the steps of its official implementation, torchscale: heads padded to multiples of the rate, a
// diagonal view to gather, each group scattered into a dense tensor, the dense tensors weighted and summed. What users
// have today, and what the bars of `bench --suite` are set against. It needs, beyond per_group, as many KV heads as
// heads and the offset rule modulo or block. Throws Error with official_refusal().
std::string official_refusal(const Pattern& pattern, int64_t len, int64_t heads, int64_t kv_heads);
PeerResult official(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern);

// The rate of LibTorch's micro-GEMM on 64 x 64 x 64 tiles that stay in cache, all threads, in GFLOP/s.
struct GemmRate {
  double gflops = 0;   // 0: not available
  std::string reason;  // why not, or empty
};
GemmRate brgemm_rate(at::ScalarType dtype, double seconds = 0.25);

}  // namespace longstride::cli
