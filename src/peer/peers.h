// What `longstride bench` and `doctor` compare with: dense attention, LongNet's published algorithm on torch's
// operators (as its users run it, and written for speed), and the rate of the micro-GEMM alone. All on the CPU, in the
// caller's process and thread pool. The room knows torch alone: what we are measured against shares no line with us.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace longstride::peer {

struct PeerResult {
  at::Tensor out;  // [batch, len, heads, dim]
  at::Tensor lse;  // [batch, heads, len]; not defined for dense_sdpa
};

// torch's scaled_dot_product_attention over all pairs. q [batch, len, heads, dim]; k, v [batch, len, kv_heads, dim].
// Differentiable.
PeerResult dense_sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal);

// LongNet's groups: head h samples in group g the positions offsets[g][h] + i * rates[g] of every segment.
struct Groups {
  std::vector<int64_t> segments;  // longer ones than the sequence are as long as it
  std::vector<int64_t> rates;
  std::vector<std::vector<int64_t>> offsets;  // per query head; of per_group alone
  bool causal = false;
};

// Why neither algorithm can run these groups at this length (empty: they can): min(segment, len) must divide len and be
// a multiple of the rate; elsewhere the published algorithm pads.
std::string refusal(const Groups& groups, int64_t len);

// LongNet's algorithm: every group gathers its sampled rows, runs dense flash attention on them, and the groups'
// outputs are scattered and averaged with weights from their softmax denominators. As in torchscale, the weights are
// constants to the gradient: out, lse and dv are the exact ones, dq and dk lack the part that flows through the mixing.
// Written as well as torch's operators allow: no dense tensor per group, one pass to mix. Throws std::invalid_argument
// with refusal().
PeerResult per_group(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Groups& groups);

// Which residue a head samples: its number modulo the rate, or its block of ceil(heads / rate) heads.
enum class HeadRule { kModulo, kBlock };

// The same algorithm in the steps of its official implementation, torchscale: heads padded to multiples of the rate, a
// diagonal view to gather, each group scattered into a dense tensor, the dense tensors weighted and summed. What users
// have today, and what the bars of `bench --suite` are set against. As many KV heads as heads. Throws
// std::invalid_argument with refusal(), or for other KV heads.
PeerResult official(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Groups& groups, HeadRule rule);

// The rate of LibTorch's micro-GEMM on 64 x 64 x 64 tiles that stay in cache, all threads, in GFLOP/s.
struct GemmRate {
  double gflops = 0;   // 0: not available
  std::string reason;  // why not, or empty
};
GemmRate brgemm_rate(at::ScalarType dtype, double seconds = 0.25);

}  // namespace longstride::peer
