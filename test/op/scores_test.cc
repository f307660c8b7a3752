// Scores of any size through the operator, beside torch's own scaled_dot_product_attention: never less exact.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <vector>

#include "longstride/attention.h"
#include "longstride/attention/weights.h"

namespace longstride {
namespace {

using at::Tensor;

// out, dq, dk, dv for a gradient d_out.
std::vector<Tensor> ours(const std::vector<Tensor>& inputs, const Tensor& d_out, double scale) {
  std::vector<Tensor> x;
  for (const Tensor& t : inputs) x.push_back(t.detach().clone().requires_grad_());
  AttentionOptions options;
  options.scale = scale;
  const Tensor out = attention(x[0], x[1], x[2], Pattern::dilated({x[0].size(1)}, {1}), options).out;
  std::vector<Tensor> all = torch::autograd::grad({out}, x, {d_out});
  all.insert(all.begin(), out.detach());
  return all;
}

// With `plain` in torch's dense operators, which keep the probabilities for the backward and not lse.
std::vector<Tensor> torchs(const std::vector<Tensor>& inputs, const Tensor& d_out, double scale, at::ScalarType dtype,
                           bool plain) {
  std::vector<Tensor> x;
  for (const Tensor& t : inputs) x.push_back(t.detach().to(dtype).requires_grad_());
  const Tensor q = x[0].transpose(1, 2), k = x[1].transpose(1, 2), v = x[2].transpose(1, 2);
  const Tensor heads = plain ? at::matmul(at::softmax(at::matmul(q, k.transpose(2, 3)).mul(scale), -1), v)
                             : at::scaled_dot_product_attention(q, k, v, {}, 0.0, false, scale);
  const Tensor out = heads.transpose(1, 2);
  std::vector<Tensor> all = torch::autograd::grad({out}, x, {d_out.to(dtype)});
  all.insert(all.begin(), out.detach());
  return all;
}

double worst(const Tensor& x, const Tensor& truth) { return (x.to(at::kDouble) - truth).abs().max().item<double>(); }

TEST(Scores, NoLessExactThanTorchs) {
  at::manual_seed(3);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const double unit = dtype == at::kFloat ? 0x1p-24 : 0x1p-8;
    for (const double scale : {1e-30, 0.25, 1e2, 1e4, 3e5, 1e8, 1e10, 1e20, 1e30}) {
      // Products of such values are exact: neither side is lucky in rounding them.
      std::vector<Tensor> x;
      for (int i = 0; i < 4; ++i) x.push_back((at::randn({1, 70, 2, 16}) * 4).round().clamp(-8, 8).div(4).to(dtype));
      const Tensor d_out = x.back();
      x.pop_back();
      const std::vector<Tensor> truth = torchs(x, d_out, scale, at::kDouble, true);
      const std::vector<Tensor> peer = torchs(x, d_out, scale, dtype, false);
      const std::vector<Tensor> mine = ours(x, d_out, scale);
      for (size_t i = 0; i < 4; ++i) {
        ASSERT_TRUE(mine[i].isfinite().all().item<bool>()) << scale << " result " << i;
        if (!peer[i].isfinite().all().item<bool>()) continue;
        // The scores' gradients are differences of dO.v and delta, of up to 16 * 4: what rounds there is scaled.
        const double differences = i == 1 || i == 2 ? scale * 64 * 2 : 1;
        const double size = std::max(truth[i].abs().max().item<double>(), differences);
        EXPECT_LE(worst(mine[i], truth[i]), 2 * worst(peer[i], truth[i]) + 12 * 0x1p-24 * size + 2 * unit * size)
            << at::toString(dtype) << " scale " << scale << " result " << i;
      }
    }
  }
}

TEST(Scores, WeightsOfGroupsStayInWeights) {
  const Tensor q = at::full({1, 8, 1, 1}, 1000.0);
  const Tensor truth = at::ones({8, 8}) / 12;
  for (int64_t i = 0; i < 8; ++i) truth[i].narrow(0, i / 2 * 2, 2).fill_(3.0 / 12);
  AttentionOptions options;
  options.scale = 1.0;
  const Tensor w = attention_weights(q, q, Pattern::dilated({2, 2, 8}, {1, 1, 1}), options);
  EXPECT_LE(worst(w[0][0], truth.to(at::kDouble)), 1e-6);
}

TEST(Scores, BlockWeightsSumToOne) {
  at::manual_seed(4);
  const Tensor q = at::randn({1, 64, 1, 16}), k = at::randn({1, 64, 1, 16});
  const Pattern pattern = Pattern::block_sparse({BlockPattern(8, LocalWindow{.window = 24})}, true);
  for (const double scale : {0.25, 1e5}) {
    AttentionOptions options;
    options.scale = scale;
    const BlockWeights w = block_attention_weights(q, k, pattern, options);
    const Tensor sums = at::zeros({8, 8}).index_add(0, w.blocks.select(1, 2), w.weights.sum(2));
    EXPECT_LE(worst(sums, at::ones({8, 8}, at::kDouble)), 1e-6) << scale;
  }
}

}  // namespace
}  // namespace longstride
