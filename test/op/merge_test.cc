// Merging partial results: splitting the keys and merging gives the whole, gradients too.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

constexpr double kNothing = -std::numeric_limits<double>::infinity();

// Plain attention over all keys or over some, in torch: the parts and the whole.
AttentionResult over(const Tensor& q, const Tensor& k, const Tensor& v) {
  const Tensor scores = at::einsum("bihd,bjhd->bhij", {q, k}) / std::sqrt(q.size(3));
  return {at::einsum("bhij,bjhd->bihd", {at::softmax(scores, -1), v}), at::logsumexp(scores, -1)};
}

class Merge : public testing::Test {
 protected:
  std::vector<AttentionResult> parts() const {
    return {over(q, k.narrow(1, 0, 3), v.narrow(1, 0, 3)), over(q, k.narrow(1, 3, 1), v.narrow(1, 3, 1)),
            over(q, k.narrow(1, 4, 5), v.narrow(1, 4, 5))};
  }
  Tensor q = normal(1, {2, 7, 3, 4}, at::kDouble).requires_grad_();
  Tensor k = normal(2, {2, 9, 3, 4}, at::kDouble).requires_grad_();
  Tensor v = normal(3, {2, 9, 3, 4}, at::kDouble).requires_grad_();
};

TEST_F(Merge, PartsGiveTheWhole) {
  const AttentionResult merged = merge(parts()), whole = over(q, k, v);
  EXPECT_TRUE(at::allclose(merged.out, whole.out, 0, 1e-14));
  EXPECT_TRUE(at::allclose(merged.lse, whole.lse, 0, 1e-14));
  const Tensor a = normal(4, whole.out.sizes(), at::kDouble), b = normal(5, whole.lse.sizes(), at::kDouble);
  const auto d = torch::autograd::grad({(merged.out * a).sum() + (merged.lse * b).sum()}, {q, k, v});
  const auto e = torch::autograd::grad({(whole.out * a).sum() + (whole.lse * b).sum()}, {q, k, v});
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(at::allclose(d[i], e[i], 0, 1e-13));
}

TEST_F(Merge, OnePartIsItself) {
  const AttentionResult whole = over(q, k, v), merged = merge({whole});
  EXPECT_TRUE(at::allclose(merged.out, whole.out, 0, 0));
  EXPECT_TRUE(at::allclose(merged.lse, whole.lse, 0, 1e-15));
}

TEST_F(Merge, TheLibrarysOwnResults) {
  // Two documents' worth of keys seen by one query block: positions 0..8 in two halves through query_start.
  const Pattern pattern = Pattern::dilated({64}, {1});
  AttentionOptions options;
  options.query_start = 0;
  const auto part = [&](int64_t begin, int64_t count) {
    return attention(q.narrow(1, 0, 3), k.narrow(1, begin, count), v.narrow(1, begin, count), pattern, options);
  };
  const AttentionResult merged = merge({part(0, 4), part(4, 5)}), whole = part(0, 9);
  EXPECT_TRUE(at::allclose(merged.out, whole.out, 0, 1e-14));
  EXPECT_TRUE(at::allclose(merged.lse, whole.lse, 0, 1e-14));
}

TEST_F(Merge, NothingSeenGivesAndGetsNothing) {
  std::vector<Tensor> leaves;
  std::vector<AttentionResult> blind;
  for (int i = 0; i < 2; ++i) {
    Tensor out = normal(10 + i, {1, 2, 1, 4}, at::kDouble);
    Tensor lse = normal(20 + i, {1, 1, 2}, at::kDouble);
    out.select(1, 0).zero_();
    lse.select(2, 0).fill_(kNothing);              // row 0 sees nothing in any part
    if (i == 1) lse.select(2, 1).fill_(kNothing);  // row 1 sees nothing in the second
    leaves.push_back(out.requires_grad_());
    leaves.push_back(lse.requires_grad_());
    blind.push_back({leaves[2 * i], leaves[2 * i + 1]});
  }
  const AttentionResult merged = merge(blind);
  EXPECT_TRUE(at::equal(merged.out.select(1, 0), torch::zeros({1, 1, 4}, at::kDouble)));
  EXPECT_EQ(merged.lse[0][0][0].item<double>(), kNothing);
  EXPECT_TRUE(at::allclose(merged.out.select(1, 1), blind[0].out.select(1, 1)));
  const auto d = torch::autograd::grad({merged.out.sum() + merged.lse.select(2, 1).sum()}, leaves);
  for (const Tensor& t : d) EXPECT_TRUE(t.isfinite().all().item<bool>());
  EXPECT_EQ(d[1][0][0][0].item<double>(), 0);
  EXPECT_NEAR(d[1][0][0][1].item<double>(), 1, 1e-15);
}

TEST_F(Merge, HalfPartsAreMergedInFloat) {
  std::vector<AttentionResult> halves;
  for (const AttentionResult& part : parts()) halves.push_back({part.out.to(at::kBFloat16), part.lse.to(at::kFloat)});
  const AttentionResult merged = merge(halves);
  EXPECT_EQ(merged.out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(merged.lse.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(merged.out.to(at::kDouble), over(q, k, v).out, 0, 2e-2));
}

TEST_F(Merge, FarApartDenominatorsDoNotOverflow) {
  const Tensor out = torch::ones({1, 1, 1, 1}, at::kFloat);
  const Tensor low = torch::full({1, 1, 1}, -1e4f), high = torch::full({1, 1, 1}, 1e4f);
  const AttentionResult merged = merge({{out, low}, {2 * out, high}});
  EXPECT_EQ(merged.out.item<float>(), 2);
  EXPECT_EQ(merged.lse.item<float>(), 1e4f);
}

TEST_F(Merge, Refusals) {
  const std::vector<AttentionResult> p = parts();
  EXPECT_THAT(refusal([] { merge({}); }), HasSubstr("parts must have at least one result"));
  EXPECT_THAT(refusal([&] { merge({p[0], {p[1].out, Tensor()}}); }), HasSubstr("parts[1] must have out and lse"));
  EXPECT_THAT(refusal([&] { merge({{p[0].out[0], p[0].lse}}); }), HasSubstr("parts[0].out must have the 4 dimensions"));
  EXPECT_THAT(refusal([&] {
                merge({{p[0].out, p[0].lse.transpose(1, 2)}});
              }),
              HasSubstr("parts[0].lse must be [batch, heads, len_q] of its out, shape [2, 3, 7], got shape [2, 7, 3]"));
  EXPECT_THAT(
      refusal([&] {
        merge({p[0], {p[1].out.narrow(1, 0, 6), p[1].lse.narrow(2, 0, 6)}});
      }),
      HasSubstr("parts[1].out must have the shape of the first part, shape [2, 7, 3, 4], got shape [2, 6, 3, 4]"));
  EXPECT_THAT(refusal([&] {
                merge({p[0], {p[1].out.to(at::kFloat), p[1].lse}});
              }),
              HasSubstr("parts[1] must have the dtypes of the first part, Double and Double, got Float and Double"));
}

}  // namespace
}  // namespace longstride::test
