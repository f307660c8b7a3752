// Merging partial results: against the softmax over all keys at once, and where nothing or nonsense is merged.
#include "engine/merge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace longstride::engine {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

TEST(Merge, SplitKeysGiveTheWhole) {
  const std::vector<double> scores = {0.3, -2, 5, 1, 700, 699.5, -700};
  const std::vector<double> values = {1, 2, 3, 4, 5, 6, 7};
  const auto part = [&](size_t begin, size_t end, double& out, double& lse) {
    double top = kNothing;
    for (size_t i = begin; i < end; ++i) top = std::max(top, scores[i]);
    double sum = 0, weighted = 0;
    for (size_t i = begin; i < end; ++i) {
      sum += std::exp(scores[i] - top);
      weighted += std::exp(scores[i] - top) * values[i];
    }
    out = weighted / sum;
    lse = top + std::log(sum);
  };
  double whole_out, whole_lse;
  part(0, scores.size(), whole_out, whole_lse);
  for (size_t cut = 1; cut < scores.size(); ++cut) {
    double out, lse, other_out, other_lse;
    part(0, cut, out, lse);
    part(cut, scores.size(), other_out, other_lse);
    double reversed_out = other_out, reversed_lse = other_lse;
    merge_into(&reversed_out, &reversed_lse, &out, lse, 1);
    merge_into(&out, &lse, &other_out, other_lse, 1);
    EXPECT_NEAR(out, whole_out, 1e-12) << cut;
    EXPECT_NEAR(lse, whole_lse, 1e-12) << cut;
    EXPECT_NEAR(reversed_out, out, 1e-12) << cut;
    EXPECT_NEAR(reversed_lse, lse, 1e-12) << cut;
  }
}

TEST(Merge, NothingIsNeutral) {
  double out = 3, lse = 1.5, rubbish = kNan;
  merge_into(&out, &lse, &rubbish, kNothing, 1);
  EXPECT_EQ(out, 3);
  EXPECT_EQ(lse, 1.5);
  double part = 4;
  out = kNan;
  lse = kNothing;
  merge_into(&out, &lse, &part, 2.5, 1);
  EXPECT_EQ(out, 4);
  EXPECT_EQ(lse, 2.5);
  out = 0;
  lse = kNothing;
  part = 0;
  merge_into(&out, &lse, &part, kNothing, 1);
  EXPECT_EQ(out, 0);
  EXPECT_EQ(lse, kNothing);
}

TEST(Merge, NanStaysNan) {
  EXPECT_TRUE(std::isnan(merged_lse(kNan, 1.0)));
  EXPECT_TRUE(std::isnan(merged_lse(1.0, kNan)));
  EXPECT_TRUE(std::isnan(merged_lse(kNothing, kNan)));
  double out = 1, lse = 0, part = kNan;
  merge_into(&out, &lse, &part, -2000.0, 1);  // its share underflows, and it attends all the same
  EXPECT_TRUE(std::isnan(out));
  EXPECT_EQ(lse, 0);
}

TEST(Merge, Shares) {
  EXPECT_DOUBLE_EQ(merged_lse(0.0, 0.0), std::log(2.0));
  EXPECT_EQ(merged_lse(kInfinity, 1.0), kInfinity);
  EXPECT_EQ(merged_lse(kInfinity, kInfinity), kInfinity);
  EXPECT_EQ(merged_lse(-1e308, -1e308), -1e308);
  EXPECT_EQ(merge_share(kNothing, kNothing), 0);
  EXPECT_DOUBLE_EQ(merge_share(0.0, std::log(4.0)), 0.25);
  EXPECT_FLOAT_EQ(merged_lse(80.0f, 80.0f), 80.0f + std::log(2.0f));
}

}  // namespace
}  // namespace longstride::engine
