// Learned sinks: a result with one key more, of value 0 and a given logit. Against the softmax that has that key.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

constexpr double kNothing = -std::numeric_limits<double>::infinity();
const Pattern kPattern = Pattern::dilated({8, 32}, {1, 2}, {.causal = true});

class Sinks : public testing::Test {
 protected:
  // Each pair's share from the library, and a last key of value 0.
  AttentionResult definition(const Tensor& logit) const {
    const AttentionResult plain = attention(q, k, v, kPattern);
    const Tensor wide = at::cat({plain.lse.unsqueeze(-1), logit.expand_as(plain.lse).unsqueeze(-1)}, -1);
    const Tensor share = at::softmax(wide, -1).select(-1, 0);  // [batch, heads, len]
    return {plain.out * share.transpose(1, 2).unsqueeze(-1), at::logsumexp(wide, -1)};
  }
  Tensor q = normal(1, {2, 40, 4, 6}, at::kDouble).requires_grad_();
  Tensor k = normal(2, {2, 40, 2, 6}, at::kDouble).requires_grad_();
  Tensor v = normal(3, {2, 40, 2, 6}, at::kDouble).requires_grad_();
};

TEST_F(Sinks, OfEveryShapeAreOneKeyMoreWithItsGradients) {
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{4}, {2, 4}, {2, 4, 40}}) {
    const Tensor sink = normal(7, sizes, at::kDouble).requires_grad_();
    const AttentionResult ours = with_sink(attention(q, k, v, kPattern), sink);
    const AttentionResult wanted = definition(sizes.size() < 3 ? sink.unsqueeze(-1) : sink);
    EXPECT_TRUE(at::allclose(ours.out, wanted.out, 0, 1e-13));
    EXPECT_TRUE(at::allclose(ours.lse, wanted.lse, 0, 1e-13));
    const Tensor a = normal(4, ours.out.sizes(), at::kDouble), b = normal(5, ours.lse.sizes(), at::kDouble);
    const auto gradients = [&](const AttentionResult& r) {
      return torch::autograd::grad({(r.out * a).sum() + (r.lse * b).sum()}, {q, k, v, sink});
    };
    const auto d = gradients(ours), e = gradients(wanted);
    for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(at::allclose(d[i], e[i], 0, 1e-12)) << i;
    EXPECT_GT(d[3].abs().min().item<double>(), 1e-6);
  }
}

TEST_F(Sinks, AreMergedAsAPartIs) {
  const AttentionResult plain = attention(q, k, v, kPattern);
  const Tensor sink = normal(7, {4}, at::kDouble);
  const AttentionResult part = {at::zeros_like(plain.out), sink.unsqueeze(-1).expand_as(plain.lse).contiguous()};
  const AttentionResult ours = with_sink(plain, sink), merged = merge({plain, part});
  EXPECT_TRUE(at::allclose(ours.out, merged.out, 0, 1e-14));
  EXPECT_TRUE(at::allclose(ours.lse, merged.lse, 0, 1e-14));
}

TEST_F(Sinks, RowsWithoutAKeyAndSinksThatAreNone) {
  AttentionOptions options;
  options.lengths = {40, 11};
  const Tensor sink = at::tensor({0.5, kNothing, 1.0, kNothing}, at::kDouble).requires_grad_();
  const AttentionResult plain = attention(q, k, v, kPattern, options), ours = with_sink(plain, sink);
  // Row 20 of the second sequence sees nothing.
  EXPECT_EQ(ours.lse[1][0][20].item<double>(), 0.5);
  EXPECT_EQ(ours.lse[1][1][20].item<double>(), kNothing);
  EXPECT_TRUE(at::equal(ours.out[1][20], at::zeros_like(ours.out[1][20])));
  EXPECT_TRUE(at::allclose(ours.out.select(2, 1), plain.out.select(2, 1), 0, 1e-15));
  const auto seen = at::isfinite(ours.lse);
  const auto d = torch::autograd::grad({ours.out.sum() + at::where(seen, ours.lse, 0.0).sum()}, {q, k, v, sink});
  for (const Tensor& gradient : d) EXPECT_TRUE(at::isfinite(gradient).all().item<bool>());
  EXPECT_EQ(d[3][1].item<double>(), 0);
  EXPECT_NE(d[3][0].item<double>(), 0);
}

TEST_F(Sinks, OfFewBitsStayInThem) {
  const auto lower = [](const Tensor& t) { return t.detach().to(at::kBFloat16); };
  const AttentionResult plain = attention(lower(q), lower(k), lower(v), kPattern);
  const AttentionResult ours = with_sink(plain, normal(7, {4}, at::kBFloat16));
  EXPECT_EQ(ours.out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(ours.lse.scalar_type(), at::kFloat);
}

TEST_F(Sinks, WhatDoesNotFitIsRefused) {
  const AttentionResult plain = attention(q, k, v, kPattern);
  const auto refused = [&](const Tensor& sink) { return refusal([&] { with_sink(plain, sink); }); };
  EXPECT_THAT(refused(Tensor()), HasSubstr("sink must be a floating-point tensor, got an undefined tensor"));
  EXPECT_THAT(refused(at::zeros({4}, at::kInt)), HasSubstr("sink must be a floating-point tensor, got Int"));
  EXPECT_THAT(refused(at::zeros({3})),
              HasSubstr("sink must be [heads], [batch, heads] or [batch, heads, len_q] of a result with lse of shape "
                        "[2, 4, 40], got shape [3]"));
  EXPECT_THAT(refused(at::zeros({4}, at::kMeta)), HasSubstr("sink must be on the device of out, cpu, got meta"));
  EXPECT_THAT(refusal([&] { with_sink({plain.out, Tensor()}, at::zeros({4})); }), HasSubstr("must have out and lse"));
}

}  // namespace
}  // namespace longstride::test
