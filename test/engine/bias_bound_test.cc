// BiasBound against the exponents that it speaks of, in double.
#include "engine/cpu/bias_bound.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace longstride::engine::cpu {
namespace {

constexpr int64_t kDim = 32;
constexpr int64_t kRows = 16;
constexpr float kScaleLog2 = 0.25f;

double score(const std::vector<float>& q, int64_t row, const std::vector<float>& k, int64_t key) {
  double sum = 0;
  for (int64_t x = 0; x < kDim; ++x) sum += double{q[row * kDim + x]} * k[key * kDim + x];
  return sum;
}

// Rows stand at 0, 1, ...; the keys of a piece at gap + kRows - 1 and on. Each row's reference is a key beside it.
TEST(BiasBound, WhatItLeavesOutIsZero) {
  std::mt19937 random(5);
  int left_out = 0, counted = 0;
  for (int trial = 0; trial < 400; ++trial) {
    std::normal_distribution<float> normal(0, trial % 4 == 0 ? 4.0f : 1.0f);
    std::vector<float> q(kRows * kDim), k(kRows * kDim), scratch(kRows), max(kRows);
    for (auto* all : {&q, &k}) {
      for (float& x : *all) x = normal(random);
    }
    const float slope = std::exp2(static_cast<float>(trial % 7) - 4), weight_log2 = trial % 3 == 0 ? 1.0f : 0.0f;
    const int64_t gap = 1 + static_cast<int64_t>(random() % 4096);
    std::vector<int64_t> distance(kRows);
    for (int64_t r = 0; r < kRows; ++r) {
      max[r] = static_cast<float>(score(q, r, k, r));
      distance[r] = static_cast<int64_t>(random() % 8);
    }
    BiasBound bound(longest_row(Cell::kFloat32, q.data(), kRows, kDim, scratch.data()), kScaleLog2, slope, max,
                    distance.data());
    const float longest = longest_row(Cell::kFloat32, k.data(), kRows, kDim, scratch.data());
    double greatest = -HUGE_VAL;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t n = 0; n < kRows; ++n) {
        const auto farther = static_cast<double>(gap + (kRows - 1 - r) + n - distance[r]);
        const double exponent = (score(q, r, k, n) - max[r]) * kScaleLog2 - slope * std::numbers::log2e * farther;
        greatest = std::max(greatest, exponent + weight_log2);
      }
    }
    if (bound.counts_for_nothing(longest, gap, weight_log2)) {
      EXPECT_LT(greatest, -126) << trial;
      ++left_out;
    } else {
      counted += greatest < -126;
    }
  }
  EXPECT_GT(left_out, 100);
  EXPECT_LT(counted, left_out);
}

TEST(BiasBound, NothingIsLeftOutThatCannotBeTold) {
  std::vector<float> max(2, 0.0f), rows(2 * kDim, 1.0f), scratch(2);
  std::vector<int64_t> distance(2, 0);
  const auto asked = [&](float query, float key, float slope) {
    const int64_t gap = slope > 0 ? 1 << 20 : -(1 << 20);
    return BiasBound(query, 1, slope, max, distance.data()).counts_for_nothing(key, gap, 0);
  };
  EXPECT_TRUE(asked(1, 1, 0.5f));
  EXPECT_FALSE(asked(1, 1, -0.5f));
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    EXPECT_FALSE(asked(odd, 1, 0.5f));
    EXPECT_FALSE(asked(1, odd, 0.5f));
    rows[kDim + 3] = odd;
    EXPECT_FALSE(asked(longest_row(Cell::kFloat32, rows.data(), 2, kDim, scratch.data()), 1, 0.5f));
    max[1] = odd == odd ? -odd : odd;  // a row that has seen nothing
    EXPECT_FALSE(asked(1, 1, 0.5f));
    max[1] = 0;
  }
}

}  // namespace
}  // namespace longstride::engine::cpu
