// Gradients: numeric differences in float64 through out and lse, gradients that are not there, second derivatives,
// layouts of d_out, autocast, torch's grad modes.
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "op/autograd/tensor.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

struct Sample {
  const char* name;
  Pattern pattern;
  int64_t heads, kv_heads, len_q, len_k;
  AttentionOptions options;
};

std::vector<Sample> samples() {
  const Tensor seed = torch::tensor({int64_t{11}}, at::kLong);
  DilatedOptions causal, zero_keys, average;
  causal.causal = true;
  zero_keys.padding = Padding::kZeroKeys;
  average.mixing = Mixing::kHeadPartition;
  average.head_offset = HeadOffset::kGroup;
  average.average = true;
  const auto with = [](auto set) {
    AttentionOptions options;
    set(options);
    return options;
  };
  return {
      {"joint", Pattern::dilated({4, 8}, {1, 2}), 2, 2, 13, 13, {}},
      {"causal", Pattern::dilated({4, 8}, {1, 2}, causal), 2, 1, 13, 13, {}},
      {"zero_keys", Pattern::dilated({4, 8}, {1, 3}, zero_keys), 2, 2, 13, 13, {}},
      {"average", Pattern::dilated({4, 8}, {1, 2}, average), 4, 2, 13, 13, {}},
      {"blind rows", Pattern::dilated({8}, {4}), 3, 3, 13, 13, {}},
      {"documents", Pattern::dilated({4, 8}, {1, 2}), 2, 2, 13, 13, with([](auto& o) {
         o.cu_seqlens = {{0, 5, 5, 13}};
       })},
      {"lengths", Pattern::dilated({4, 8}, {1, 2}), 2, 2, 13, 13, with([](auto& o) {
         o.lengths = {{9, 0}};
       })},
      {"decoding", Pattern::dilated({4, 8}, {1, 2}, causal), 2, 2, 3, 13, with([](auto& o) { o.query_start = 8; })},
      {"dropout", Pattern::dilated({4, 8}, {1, 2}), 2, 2, 13, 13, with([&](auto& o) {
         o.dropout_p = 0.4;
         o.dropout_seed = seed;
       })},
      {"blocks",
       Pattern::block_sparse({BlockPattern(4, LocalWindow{.window = 12}), BlockPattern(3, RandomBlocks{0.4, 1})}),
       4,
       2,
       13,
       13,
       {}},
      {"blocks and groups", Pattern::dilated({4, 8}, {1, 3}, causal).with_blocks({BlockPattern(4, Strided{2})}), 2, 2,
       13, 13, with([](auto& o) {
         o.lengths = {{13, 9}};
       })},
      {"listed blocks", Pattern::block_sparse({BlockPattern(4, BlockList{{{-1, 0, 3, 0}, {0, -1, 2, 2}}})}), 2, 2, 3,
       13, with([](auto& o) { o.query_start = 9; })},
      {"scale", Pattern::dilated({4, 8}, {1, 2}), 2, 2, 13, 13, with([](auto& o) { o.scale = -1.3; })},
  };
}

TEST(Autograd, NumericDifferencesThroughOutAndLse) {
  constexpr int64_t kBatch = 2, kDim = 3;
  for (const Sample& s : samples()) {
    std::vector<Tensor> inputs = {normal(1, {kBatch, s.len_q, s.heads, kDim}, at::kDouble),
                                  normal(2, {kBatch, s.len_k, s.kv_heads, kDim}, at::kDouble),
                                  normal(3, {kBatch, s.len_k, s.kv_heads, kDim}, at::kDouble)};
    const Tensor a = normal(4, {kBatch, s.len_q, s.heads, kDim}, at::kDouble);
    const Tensor b = normal(5, {kBatch, s.heads, s.len_q}, at::kDouble);
    const auto loss = [&] {
      const auto [out, lse] = attention(inputs[0], inputs[1], inputs[2], s.pattern, s.options);
      return (out * a).sum() + (lse.masked_fill(lse.isneginf(), 0) * b).sum();
    };
    for (Tensor& t : inputs) t.requires_grad_();
    const auto analytic = torch::autograd::grad({loss()}, inputs);
    EXPECT_EQ(last_engine(), "reference");
    const at::NoGradGuard no_grad;
    constexpr double kStep = 1e-6;  // error of a central difference ~ step^2 + 1e-16 / step
    for (size_t n = 0; n < inputs.size(); ++n) {
      double* x = inputs[n].data_ptr<double>();
      const std::vector<double> expected = values(analytic[n]);
      for (int64_t i = 0; i < inputs[n].numel(); ++i) {
        const double kept = x[i];
        x[i] = kept + kStep;
        const double above = loss().item<double>();
        x[i] = kept - kStep;
        const double below = loss().item<double>();
        x[i] = kept;
        ASSERT_NEAR((above - below) / (2 * kStep), expected[i], 2e-7) << s.name << ", input " << n << ", element " << i;
      }
    }
  }
}

class Plain : public testing::Test {
 protected:
  Tensor q = normal(1, {2, 20, 4, 8}).requires_grad_();
  Tensor k = normal(2, {2, 20, 2, 8}).requires_grad_();
  Tensor v = normal(3, {2, 20, 2, 8}).requires_grad_();
  Pattern pattern = Pattern::dilated({8, 16}, {1, 2});
};

TEST_F(Plain, LseAloneHasTheGradientOfLse) {
  const AttentionResult r = attention(q, k, v, pattern);
  const auto d = torch::autograd::grad({r.lse.sum()}, {q, k, v});
  // sum over keys of P * q: the gradient of lse moves q by the mean key, and v not at all.
  EXPECT_TRUE(at::equal(d[2], at::zeros_like(v)));
  const double step = 1e-2;
  const Tensor nudged = attention(q.detach() + step * d[0], k, v, pattern).lse.sum();
  EXPECT_NEAR((nudged - r.lse.sum()).item<double>() / step, (d[0] * d[0]).sum().item<double>(), 0.1);
}

TEST_F(Plain, AZeroLseGradientChangesNothing) {
  const AttentionResult r = attention(q, k, v, pattern);
  const Tensor d_out = normal(4, r.out.sizes());
  const auto without = torch::autograd::grad({r.out}, {q, k, v}, {d_out}, true);
  const auto with = torch::autograd::grad({r.out, r.lse}, {q, k, v}, {d_out, at::zeros_like(r.lse)});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(at::allclose(without[i], with[i], 0, 1e-6));
}

TEST_F(Plain, ExpandedAndTransposedOutputGradients) {
  const auto plain = torch::autograd::grad({attention(q, k, v, pattern).out.sum()}, {q, k, v});  // d_out: expanded ones
  const Tensor out = attention(q, k, v, pattern).out;
  const Tensor ones = torch::ones({2, 20, 8, 4}).transpose(2, 3);
  const auto transposed = torch::autograd::grad({out}, {q, k, v}, {ones});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(plain[i], transposed[i]));
}

TEST_F(Plain, OnlyWhatIsAskedFor) {
  const Tensor fixed = k.detach();
  const AttentionResult r = attention(q, fixed, v, pattern);
  EXPECT_TRUE(r.out.requires_grad());
  EXPECT_TRUE(r.lse.requires_grad());
  const auto some = torch::autograd::grad({r.out.sum()}, {q, v});
  const auto all = torch::autograd::grad({attention(q, k, v, pattern).out.sum()}, {q, v});
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(some[i], all[i]));
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(attention(q, k, v, pattern).out.requires_grad());
}

TEST_F(Plain, SecondDerivativesAreRefused) {
  const AttentionResult r = attention(q, k, v, pattern);
  const auto first = torch::autograd::grad({r.out.square().sum()}, {q}, {}, true, true);
  const auto again = torch::autograd::grad({attention(q, k, v, pattern).out.square().sum()}, {q});
  EXPECT_TRUE(at::allclose(first[0], again[0]));
  EXPECT_THAT(refusal([&] { first[0].square().sum().backward(); }),
              HasSubstr("attention can be differentiated once, got a second derivative"));
}

TEST_F(Plain, ChangedInputsAreNoticed) {
  const Tensor copy = q.detach().clone().requires_grad_();
  const Tensor x = copy * 1;
  const AttentionResult r = attention(x, k, v, pattern);
  x.mul_(2);
  EXPECT_THAT([&] { r.out.sum().backward(); }, testing::ThrowsMessage<c10::Error>(HasSubstr("modified by an inplace")));
}

TEST_F(Plain, AutocastCastsAsSdpaDoes) {
  at::autocast::set_autocast_enabled(at::kCPU, true);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const AttentionResult r = attention(q, k, v, pattern);
  const AttentionResult wide = attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), pattern);
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(r.out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(r.lse.scalar_type(), at::kFloat);
  EXPECT_EQ(wide.out.scalar_type(), at::kDouble);
  const AttentionResult cast = attention(q.to(at::kBFloat16), k.to(at::kBFloat16), v.to(at::kBFloat16), pattern);
  EXPECT_TRUE(same_bits(r.out, cast.out));
  const auto d = torch::autograd::grad({r.out.to(at::kFloat).sum()}, {q, k, v});
  for (const Tensor& t : d) EXPECT_EQ(t.scalar_type(), at::kFloat);
  EXPECT_EQ(attention(q, k, v, pattern).out.scalar_type(), at::kFloat);
}

TEST_F(Plain, DropoutDrawsTheSameMaskInTheBackward) {
  AttentionOptions options;
  options.dropout_p = 0.5;
  options.dropout_seed = torch::tensor({int64_t{99}}, at::kLong);
  // out is linear in v: with the forward's mask <d_out, out> = <dv, v>, with another one it is not.
  const Tensor out = attention(q, k, v, pattern, options).out;
  const Tensor d_out = normal(4, out.sizes());
  const Tensor dv = torch::autograd::grad({out}, {v}, {d_out})[0];
  EXPECT_NEAR((dv * v).sum().item<double>(), (d_out * out).sum().item<double>(), 1e-3);
  options.dropout_seed = torch::tensor({int64_t{100}}, at::kLong);
  EXPECT_GT((attention(q, k, v, pattern, options).out - out).abs().max().item<double>(), 1e-2);
}

TEST(DeterministicAlgorithms, OfTorchAskForTheSameBits) {
  const Pattern pattern = Pattern::dilated({8, 16}, {1, 2});
  EXPECT_FALSE(op::autograd::make_call(pattern, {}).deterministic);
  at::globalContext().setDeterministicAlgorithms(true, false);
  EXPECT_TRUE(op::autograd::make_call(pattern, {}).deterministic);
  at::globalContext().setDeterministicAlgorithms(false, false);
}

}  // namespace
}  // namespace longstride::test
