// LongNet's official pipeline, tensor by tensor as torchscale has it (torchscale/component/dilated_attention.py), on
// torch's operators (peers.h): what its users run today. Each group's output and log-sum-exp are scattered into dense
// tensors, and those are mixed; per_group in per_group.cc is the same algorithm without them.
#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/diag_embed.h>
#include <ATen/ops/stack.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <stdexcept>
#include <vector>

#include "peer/peers.h"

namespace longstride::peer {
namespace {

using at::Tensor;

// How a group's heads fall into residues: padded to `share` heads for each of `rate` residues. Head h samples residue
// h mod rate (modulo) or h / share (block).
struct HeadSplit {
  int64_t heads, rate, share;
  bool modulo;
  HeadSplit(int64_t heads, int64_t rate, HeadRule rule)
      : heads(heads), rate(rate), share((heads + rate - 1) / rate), modulo(rule == HeadRule::kModulo) {}

  // Dimension 2, the heads, filled up to share * rate.
  Tensor padded(const Tensor& x) const {
    const int64_t missing = share * rate - heads;
    return missing > 0 ? at::constant_pad_nd(x, {0, 0, 0, missing}) : x;
  }
};

// [segments, samples * rate, heads, dim] -> [segments, samples, heads, dim]: the diagonal of (row, residue) by head.
Tensor gathered(const Tensor& rows, const HeadSplit& split) {
  const int64_t segments = rows.size(0), samples = rows.size(1) / split.rate, dim = rows.size(3);
  const Tensor padded = split.padded(rows);
  const Tensor cells = split.modulo ? padded.reshape({segments, samples, split.rate, split.share, split.rate, dim})
                                    : padded.reshape({segments, samples, split.rate, split.rate, split.share, dim});
  // [segments, samples, share, dim, rate]
  const Tensor own = cells.diagonal(0, 2, split.modulo ? 4 : 3);
  const Tensor ordered = split.modulo ? own.permute({0, 1, 2, 4, 3}) : own.permute({0, 1, 4, 2, 3});
  return ordered.reshape({segments, samples, split.share * split.rate, dim}).narrow(2, 0, split.heads);
}

// The way back: [segments, samples, heads, dim] -> [segments, padded heads, samples * rate, dim], zero where a head has
// no sample.
Tensor scattered(const Tensor& samples, const HeadSplit& split) {
  const int64_t segments = samples.size(0), count = samples.size(1), dim = samples.size(3);
  const Tensor padded = split.padded(samples);
  const Tensor by_residue =
      split.modulo ? padded.reshape({segments, count, split.share, split.rate, dim}).transpose(3, 4)
                   : padded.reshape({segments, count, split.rate, split.share, dim}).permute({0, 1, 3, 4, 2});
  const Tensor dense = at::diag_embed(by_residue);  // [segments, samples, share, dim, rate (row), rate (residue)]
  const Tensor ordered = split.modulo ? dense.permute({0, 2, 5, 1, 4, 3}) : dense.permute({0, 5, 2, 1, 4, 3});
  return ordered.reshape({segments, split.share * split.rate, count * split.rate, dim}).narrow(1, 0, split.heads);
}

}  // namespace

PeerResult official(const Tensor& q, const Tensor& k, const Tensor& v, const Groups& groups, HeadRule rule) {
  const int64_t batch = q.size(0), len = q.size(1), heads = q.size(2), dim = q.size(3);
  std::string why = refusal(groups, len);
  if (k.size(2) != heads) why = fmt::format("it has as many KV heads as heads, got {} for {}", k.size(2), heads);
  if (!why.empty()) throw std::invalid_argument("the official pipeline cannot run these groups: " + why);
  std::vector<Tensor> outs, lses;
  for (size_t g = 0; g < groups.segments.size(); ++g) {
    const int64_t segment = std::min(groups.segments[g], len);
    const HeadSplit split(heads, groups.rates[g], rule);
    const auto gather = [&](const Tensor& x) {
      return gathered(x.reshape({batch * len / segment, segment, heads, dim}), split).transpose(1, 2);
    };
    const auto [out, lse] =
        at::_scaled_dot_product_flash_attention_for_cpu(gather(q), gather(k), gather(v), 0.0, groups.causal);
    const auto whole = [&](const Tensor& dense, int64_t width) {
      return dense.reshape({batch, len / segment, heads, segment, width})
          .transpose(1, 2)
          .reshape({batch, heads, len, width});
    };
    outs.push_back(whole(scattered(out.transpose(1, 2), split), dim));
    const c10::NoGradGuard no_grad;
    const Tensor dense_lse = scattered(lse.transpose(1, 2).unsqueeze(-1), split);
    lses.push_back(whole(dense_lse.masked_fill(dense_lse == 0, -1e8), 1));
  }
  std::vector<Tensor> weights;
  Tensor top, sum;
  {
    const c10::NoGradGuard no_grad;
    top = std::get<0>(at::stack(lses).max(0));
    for (const Tensor& lse : lses) weights.push_back((lse - top).exp());
    sum = at::stack(weights).sum(0);
    for (Tensor& weight : weights) weight = weight / sum;
  }
  Tensor out;
  for (size_t g = 0; g < outs.size(); ++g) {
    const Tensor term = outs[g] * weights[g].to(outs[g].scalar_type());
    out = g == 0 ? term : out + term;
  }
  return {out.transpose(1, 2), (sum.log() + top).squeeze(-1)};
}

}  // namespace longstride::peer
