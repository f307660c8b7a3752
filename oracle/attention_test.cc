// The oracle against numbers worked out by hand, so that it can be wrong visibly, and against finite differences.
#include "oracle/attention.h"

#include <gtest/gtest.h>

#include <random>

namespace oracle {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// dim 1, one head, one batch row.
Options line(int64_t len, std::vector<int64_t> segments, std::vector<int64_t> rates) {
  Options o;
  o.len_q = o.len_k = len;
  o.segments = std::move(segments);
  o.rates = std::move(rates);
  return o;
}

TEST(Philox, MatchesTheVectorsPublishedWithRandom123) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t f = 0xffffffff;
  EXPECT_EQ(philox4x32_10({f, f, f, f}, {f, f}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, KeepsAsOftenAsAsked) {
  int kept = 0;
  for (int64_t q = 0; q < 200; ++q) {
    for (int64_t k = 0; k < 200; ++k) kept += keeps(42, 0.25, 4, 1, 2, q, k);
  }
  EXPECT_NEAR(kept / 40000.0, 0.75, 0.01);
  EXPECT_NE(keeps(1, 0.5, 1, 0, 0, 0, 0) + 2 * keeps(1, 0.5, 1, 0, 0, 0, 1) + 4 * keeps(1, 0.5, 1, 0, 0, 0, 2) +
                8 * keeps(1, 0.5, 1, 0, 0, 1, 0) + 16 * keeps(1, 0.5, 1, 0, 0, 2, 0),
            keeps(2, 0.5, 1, 0, 0, 0, 0) + 2 * keeps(2, 0.5, 1, 0, 0, 0, 1) + 4 * keeps(2, 0.5, 1, 0, 0, 0, 2) +
                8 * keeps(2, 0.5, 1, 0, 0, 1, 0) + 16 * keeps(2, 0.5, 1, 0, 0, 2, 0));
}

TEST(Oracle, TwoKeysByHand) {
  // scores 0 and ln 3: weights 1/4 and 3/4; values 4 and 8: out 7; lse = ln 4.
  Options o = line(2, {2}, {1});
  const Forward f = forward(o, {1, 1}, {0, std::log(3.0)}, {4, 8});
  EXPECT_NEAR(f.out[0], 7.0, 1e-15);
  EXPECT_NEAR(f.lse[0], std::log(4.0), 1e-15);
}

TEST(Oracle, MultiplicityCountsGroups) {
  // Groups (2, 1) and (4, 2) on 4 positions: 0 sees 0 twice, 1 once, 2 once. Scores 0: weights 2, 1, 1.
  Options o = line(4, {2, 4}, {1, 2});
  const Forward f = forward(o, {0, 0, 0, 0}, {0, 0, 0, 0}, {1, 10, 100, 1000});
  EXPECT_NEAR(f.out[0], (2 * 1 + 10 + 100) / 4.0, 1e-13);
  EXPECT_NEAR(f.lse[0], std::log(4.0), 1e-15);
  EXPECT_NEAR(f.out[1], (1 + 10) / 2.0, 1e-13);
  EXPECT_NEAR(f.out[2], (1 + 2 * 100 + 1000) / 4.0, 1e-13);
  EXPECT_NEAR(f.out[3], (100 + 1000) / 2.0, 1e-13);
}

TEST(Oracle, UnsampledQueryIsZeroAndMinusInfinity) {
  Options o = line(3, {3}, {2});
  const Forward f = forward(o, {1, NAN, 1}, {0, NAN, 0}, {2, NAN, 4});
  EXPECT_EQ(f.out[1], 0.0);
  EXPECT_EQ(f.lse[1], -kInfinity);
  EXPECT_NEAR(f.out[0], 3.0, 1e-15);
  const Backward g = backward(o, {1, NAN, 1}, {0, NAN, 0}, {2, NAN, 4}, {1, NAN, 1}, {0, NAN, 0});
  EXPECT_EQ(g.dq[1], 0.0);
  EXPECT_EQ(g.dk[1], 0.0);
  EXPECT_EQ(g.dv[1], 0.0);
  EXPECT_NEAR(g.dv[0], 1.0, 1e-15);
}

TEST(Oracle, CausalAndQueryStart) {
  Options o = line(3, {8}, {1});
  o.causal = true;
  const Forward whole = forward(o, {0, 0, 0}, {0, 0, 0}, {3, 5, 10});
  EXPECT_EQ(whole.out, (std::vector<double>{3, 4, 6}));
  o.len_q = 1;
  o.query_start = 1;
  EXPECT_EQ(forward(o, {0}, {0, 0, 0}, {3, 5, 10}).out, (std::vector<double>{4}));
}

TEST(Oracle, DocumentsRestartSegments) {
  // Documents [0, 3) and [3, 5), segments of 2: {0, 1} {2} {3, 4}.
  Options o = line(5, {2}, {1});
  o.cu_seqlens = {0, 3, 3, 5};
  EXPECT_EQ(forward(o, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}, {1, 3, 7, 10, 20}).out,
            (std::vector<double>{2, 2, 7, 15, 15}));
  o.cu_seqlens.clear();
  o.lengths = {3};
  EXPECT_EQ(forward(o, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0}, {1, 3, 7, NAN, NAN}).out,
            (std::vector<double>{2, 2, 7, 0, 0}));
}

TEST(Oracle, PhantomsFillShortSegments) {
  // len 6, w 4, r 2, offset 0: segment 0 samples 0, 2; segment 1 = {4, 5} samples 4 and sees ceil(4 / 2) - 1 = 1
  // phantom.
  Options o = line(6, {4}, {2});
  o.zero_keys = true;
  const Forward f = forward(o, std::vector<double>(6, 0.0), std::vector<double>(6, 0.0), {2, 0, 4, 0, 10, 0});
  EXPECT_EQ(f.out, (std::vector<double>{3, 0, 3, 0, 5, 0}));
  EXPECT_NEAR(f.lse[4], std::log(2.0), 1e-15);
  EXPECT_EQ(f.lse[5], -kInfinity);
  o.causal = true;
  EXPECT_EQ(forward(o, std::vector<double>(6, 0.0), std::vector<double>(6, 0.0), {2, 0, 4, 0, 10, 0}).out[4], 10);
}

TEST(Oracle, OffsetRules) {
  Options o = line(1, {8, 8, 8}, {2, 4, 3});
  o.heads = o.kv_heads = 6;
  const auto row = [&](int64_t g) {
    std::vector<int64_t> offsets;
    for (int64_t j = 0; j < o.kv_heads; ++j) offsets.push_back(offset(o, g, j));
    return offsets;
  };
  EXPECT_EQ(row(1), (std::vector<int64_t>{0, 1, 2, 3, 0, 1}));
  o.rule = OffsetRule::kBlock;
  EXPECT_EQ(row(0), (std::vector<int64_t>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(row(1), (std::vector<int64_t>{0, 0, 1, 1, 2, 2}));
  o.rule = OffsetRule::kGroup;
  EXPECT_EQ(row(2), (std::vector<int64_t>{2, 2, 2, 2, 2, 2}));
  o.offsets = {0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0};
  EXPECT_EQ(row(0), (std::vector<int64_t>{0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(row(2), (std::vector<int64_t>{2, 1, 0, 2, 1, 0}));
}

TEST(Oracle, HeadPartitionGivesTheFirstGroupsTheLongerRanges) {
  Options o = line(1, {8, 8, 8}, {1, 1, 1});
  o.heads = o.kv_heads = 5;
  o.head_partition = true;
  for (int64_t j = 0; j < 5; ++j) {
    const int64_t group = j < 2 ? 0 : j < 4 ? 1 : 2;
    for (int64_t g = 0; g < 3; ++g) EXPECT_EQ(runs(o, g, j), g == group) << g << " " << j;
  }
}

TEST(Oracle, AverageTouchesOutOnly) {
  Options o = line(1, {1, 1}, {1, 1});
  o.heads = o.kv_heads = 2;
  o.head_partition = o.average = true;
  const Forward f = forward(o, {0, 0}, {0, 0}, {6, 8});
  EXPECT_EQ(f.out, (std::vector<double>{3, 4}));
  EXPECT_EQ(f.lse, (std::vector<double>{0, 0}));
}

// Every option that has a gradient, at once, against central differences.
TEST(Oracle, GradientIsTheDerivative) {
  for (int variant = 0; variant < 6; ++variant) {
    Options o = line(9, {3, 9}, {1, 2});
    o.batch = 2;
    o.heads = 4;
    o.kv_heads = 2;
    o.dim = 2;
    o.causal = variant % 2 == 1;
    o.zero_keys = variant == 2 || variant == 4;
    o.head_partition = o.average = variant >= 4;
    if (variant == 3) o.cu_seqlens = {0, 4, 9};
    if (variant == 4) o.lengths = {5, 9};
    if (variant % 3 == 0) o.dropout_p = 0.3;
    o.dropout_seed = 7;
    std::mt19937_64 random(variant);
    std::normal_distribution<double> normal;
    const auto fill = [&](int64_t n) {
      std::vector<double> x(n);
      for (double& value : x) value = normal(random);
      return x;
    };
    std::vector<double> q = fill(2 * 9 * 4 * 2), k = fill(2 * 9 * 2 * 2), v = fill(2 * 9 * 2 * 2);
    const std::vector<double> d_out = fill(2 * 9 * 4 * 2), d_lse = fill(2 * 4 * 9);
    const auto loss = [&] {
      const Forward f = forward(o, q, k, v);
      double sum = 0;
      for (size_t i = 0; i < f.out.size(); ++i) sum += f.out[i] * d_out[i];
      for (size_t i = 0; i < f.lse.size(); ++i) sum += std::isfinite(f.lse[i]) ? f.lse[i] * d_lse[i] : 0.0;
      return sum;
    };
    const Backward g = backward(o, q, k, v, d_out, d_lse);
    const auto check = [&](std::vector<double>& x, const std::vector<double>& gradient, const char* name) {
      for (size_t i = 0; i < x.size(); ++i) {
        const double kept = x[i];
        x[i] = kept + 1e-5;
        const double up = loss();
        x[i] = kept - 1e-5;
        const double down = loss();
        x[i] = kept;
        ASSERT_NEAR((up - down) / 2e-5, gradient[i], 1e-7) << name << "[" << i << "] variant " << variant;
      }
    };
    check(q, g.dq, "dq");
    check(k, g.dk, "dk");
    check(v, g.dv, "dv");
  }
}

}  // namespace
}  // namespace oracle
