// Scores of any size: the engines against the oracle from scores that all but vanish to those at the end of float32.
// Queries and keys are small integers times powers of 2, so that every product is exact and what is measured is the
// softmax.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "test/engine/cases.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using core::DType;

// Integers of -6 to 6, exact in every dtype and in every sum; NaN, which no pair reads, stays.
void make_exact(std::vector<double>& x, double unit) {
  for (double& value : x) value = std::isnan(value) ? value : std::clamp(std::round(value * 3), -6.0, 6.0) * unit;
}

struct Size {
  double unit_q;
  double unit_k;
  double scale;
};

// Scores of 1e-30 to 1e37, by way of q, of k and of the scale.
const std::vector<Size>& sizes() {
  static const std::vector<Size> all = {{1, 1, 1e-30},
                                        {1, 1, 1e-39},  // the scale is subnormal
                                        {1, 1, 30},
                                        {1, 1, -1500.1},
                                        {1, 1, 1.4e4},
                                        {1, 1, 3e5},
                                        {1, 1, -1e10},
                                        {1, 1, 1e20},
                                        {0x1p8, 0x1p9, 0.3},
                                        {0x1p-40, 0x1p-50, 1e30},
                                        {0x1p60, 0x1p55, -1e-30},
                                        {0x1p10, 0x1p20, 1e-5},
                                        {0x1p-60, 0x1p-66, 3.4e38}};
  return all;
}

// A case of the grid with scores of a size, and biases as large. In float16 they reach 1e6: gradients would overflow
// beyond.
Case sized(const Case& of_grid, const Size& size) {
  Case c = of_grid;
  const bool narrow = c.dtype == DType::kFloat16;
  make_exact(c.q, narrow ? 0x1p6 : size.unit_q);
  make_exact(c.k, narrow ? 0x1p6 : size.unit_k);
  c.options.scale = static_cast<float>(narrow ? std::clamp(size.scale, -0.3, 0.3) : size.scale);
  const double unit = std::abs(*c.options.scale) * (narrow ? 0x1p12 : size.unit_q * size.unit_k);
  // Steep and of no round size: keys of one product are far apart unless they are equally far, and no bias makes up for
  // a difference of products. Where several keys count the backward goes by rounded scores, as any does.
  for (double& slope : c.options.alibi_slopes) {
    if (slope != 0) slope = static_cast<float>(std::copysign(std::max(std::abs(slope), 0.3), slope) * unit * 0.7390851);
  }
  return c;
}

void check_sizes(const Engine& engine, int64_t random_count, const engine::Workspace& w, bool float64) {
  size_t n = 0;
  for_each_case(random_count, Poison::kUnread, [&](const Case& of_grid) {
    if (of_grid.dtype == DType::kFloat64 && !float64) return;
    const Case c = sized(of_grid, sizes()[n++ % sizes().size()]);
    EXPECT_EQ(against_oracle(engine, c, run_case(engine, c, w)), "") << "size " << (n - 1) % sizes().size();
  });
  EXPECT_GT(n, sizes().size());
}

TEST(Scores, OfAnySizeOnTheReferenceEngine) { check_sizes(reference_engine(), 200, {}, true); }
TEST(Scores, OfAnySizeOnTheCpuEngine) { check_sizes(cpu_engine(), 800, {}, false); }
TEST(Scores, OfAnySizeInPairs) {
  const PairsGemm gemm;
  check_sizes(cpu_engine(), 400, threads(2, &gemm), false);
  EXPECT_GT(gemm.calls, 0);
}

// One head of one dimension, float32.
Case column(std::vector<int64_t> segments, std::vector<int64_t> rates, std::vector<double> q, std::vector<double> k,
            std::vector<double> v) {
  Case c = make_case(Choice(kFactors, 0), 1, Poison::kNone);
  c.dtype = DType::kFloat32;
  c.options = {};
  c.options.len_q = c.options.len_k = static_cast<int64_t>(q.size());
  c.options.segments = segments;
  c.options.rates = rates;
  c.options.scale = 1;
  c.has_d_lse = false;
  c.d_lse.clear();
  for (auto* x : {&q, &k, &v}) {
    for (double& value : *x) value = rounded(value, c.dtype);
  }
  c.q = q;
  c.k = k;
  c.v = v;
  c.d_out.assign(q.size(), 1.0);
  return c;
}

class ScoresOfEngines : public testing::TestWithParam<Engine> {};
INSTANTIATE_TEST_SUITE_P(All, ScoresOfEngines, testing::Values(reference_engine(), cpu_engine()),
                         [](const auto& tested) { return tested.param.name; });

TEST_P(ScoresOfEngines, OneKeyTakesTheRow) {
  const Case c = column({2}, {1}, {1e5, 1e5}, {1e5, 33333.3}, {1, 2});
  const Results r = run_case(GetParam(), c);
  EXPECT_EQ(r.out, (std::vector<double>{1, 1}));
  EXPECT_EQ(r.lse, (std::vector<double>{1e10, 1e10}));
  EXPECT_EQ(r.dv, (std::vector<double>{2, 0}));
  EXPECT_EQ(against_oracle(GetParam(), c, r), "");
}

TEST_P(ScoresOfEngines, WeightsOfGroupsStay) {
  const Case c = column({2, 2, 8}, {1, 1, 1}, std::vector<double>(8, 1000), std::vector<double>(8, 1000),
                        {0, 1, 2, 3, 4, 5, 6, 7});
  const Results r = run_case(GetParam(), c);
  for (size_t i = 0; i < 8; ++i) {
    // Weight 3 for the pair's two, 1 for the other six.
    const double first = static_cast<double>(i / 2 * 2);
    EXPECT_NEAR(r.out[i], (28 + 2 * (2 * first + 1)) / 12, 4e-7) << i;
  }
  EXPECT_EQ(against_oracle(GetParam(), c, r), "");
}

// A query with one key far above the rest has the gradient of that key alone, whatever the rounding of its score:
// forward and backward round alike. Products are not exact here.
TEST_P(ScoresOfEngines, GradientsWhereScoresAreLarge) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const double scale : {700.0, 1.4e4, 3e5, 1e8}) {
      Choice choice(kFactors, 0);
      choice[kDType] = static_cast<int>(dtype);
      choice[kDim] = 3;
      Case c = make_case(choice, 5, Poison::kNone, [&](DType&, oracle::Options& o) {
        o.segments = {8, 64};
        o.rates = {1, 1};
        o.scale = static_cast<float>(scale);
      });
      // Queries lie near the axes, and so does one key of each.
      const int64_t dim = c.options.dim;
      for (size_t n = 0; n < c.q.size(); ++n) {
        const int64_t x = static_cast<int64_t>(n) % dim;
        const int64_t at = static_cast<int64_t>(n) / dim / c.options.heads % c.options.len_q;
        c.q[n] = rounded(c.q[n] * 0.05 + (x == at * 7 % dim ? 3 : 0), dtype);
        c.k[n] = rounded(c.k[n] * 0.05 + (x == at ? 3 : 0), dtype);
      }
      const Results r = run_case(GetParam(), c);
      EXPECT_EQ(against_oracle(GetParam(), c, r), "") << scale;
    }
  }
}

// Beyond float32 nothing is promised but what torch gives too: a row whose scores all overflow downwards sees nothing.
TEST(Scores, BeyondFloat32) {
  const Case c = column({2}, {1}, {1e30, 1e30}, {-1e30, -1e30}, {1, 2});
  const Results r = run_case(cpu_engine(), c);
  EXPECT_EQ(r.out, (std::vector<double>{0, 0}));
  EXPECT_EQ(r.lse, std::vector<double>(2, -std::numeric_limits<double>::infinity()));
  for (const auto* x : {&r.dq, &r.dk, &r.dv}) EXPECT_EQ(*x, (std::vector<double>{0, 0}));
}

}  // namespace
}  // namespace longstride::test
