// Coverage against a double loop, and where its answer is known.
#include "coverage.h"

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>

namespace longstride::cli {
namespace {

at::Tensor causal_weights(int64_t heads, int64_t len, uint64_t seed) {
  const at::Tensor logits = at::randn({heads, len, len}, at::make_generator<at::CPUGeneratorImpl>(seed)) * 3;
  return logits.masked_fill(torch::ones({len, len}, torch::kBool).triu(1), -HUGE_VAL).softmax(2);
}

Coverage by_loops(const at::Tensor& weights, const at::Tensor& seen, double share) {
  const auto p = weights.accessor<float, 3>();
  const auto s = seen.accessor<bool, 3>();
  const int64_t heads = weights.size(0), len = weights.size(1);
  double mass = 0, heaviest = 0;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t q = 0; q < len; ++q) {
      std::vector<std::pair<float, int64_t>> keys;
      for (int64_t k = 0; k <= q; ++k) {
        keys.push_back({p[h][q][k], k});
        if (s[h][q][k]) mass += p[h][q][k];
      }
      std::sort(keys.rbegin(), keys.rend());
      const auto count = std::max<int64_t>(1, int64_t(std::ceil(share * double(q + 1))));
      double kept = 0;
      for (int64_t n = 0; n < count; ++n) kept += s[h][q][keys[size_t(n)].second] ? 1 : 0;
      heaviest += kept / double(count);
    }
  }
  return {mass / double(heads * len), heaviest / double(heads * len)};
}

TEST(Coverage, EqualsADoubleLoop) {
  for (const int64_t len : {1, 2, 37, 130}) {
    for (const double share : {0.001, 0.05, 0.25, 1.0}) {
      const at::Tensor weights = causal_weights(3, len, 5);
      const at::Tensor seen =
          (at::rand({3, len, len}, at::make_generator<at::CPUGeneratorImpl>(uint64_t{6})) < 0.4).tril();
      const Coverage ours = coverage(weights, seen, share), theirs = by_loops(weights, seen, share);
      EXPECT_NEAR(ours.mass, theirs.mass, 1e-6) << len << " " << share;
      EXPECT_NEAR(ours.heaviest, theirs.heaviest, 1e-9) << len << " " << share;
    }
  }
}

TEST(Coverage, OfAllIsAllAndOfNothingNothing) {
  const at::Tensor weights = causal_weights(2, 50, 7);
  const Coverage all = coverage(weights, torch::ones({2, 50, 50}, torch::kBool).tril(), 0.1);
  EXPECT_NEAR(all.mass, 1, 1e-6);
  EXPECT_EQ(all.heaviest, 1);
  const Coverage none = coverage(weights, torch::zeros({2, 50, 50}, torch::kBool), 0.1);
  EXPECT_EQ(none.mass, 0);
  EXPECT_EQ(none.heaviest, 0);
}

// Every query weighs its own key most and the pattern shows nothing else: all of the heaviest, not all of the mass.
TEST(Coverage, HeaviestAndMassAreApart) {
  const at::Tensor weights = torch::eye(20).unsqueeze(0) * 0.6 + torch::ones({20, 20}).tril().unsqueeze(0) * 0.02;
  const Coverage own = coverage(weights, torch::eye(20).to(torch::kBool).unsqueeze(0), 0.01);
  EXPECT_EQ(own.heaviest, 1);
  EXPECT_NEAR(own.mass, 0.62, 1e-6);
}

}  // namespace
}  // namespace longstride::cli
