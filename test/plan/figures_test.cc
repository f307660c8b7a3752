// What the level search must reach: keys that the engine multiplies for a query, for the patterns of the literature.
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

const std::vector<int64_t> kLongNetSegments = {2048, 4096, 8192, 16384, 32768};
const std::vector<int64_t> kLongNetRates = {1, 2, 4, 6, 12};
const std::vector<int64_t> kDoublingRates = {1, 2, 4, 8, 16};
const std::vector<int64_t> kGigaPathSegments = {1024, 5792, 32768, 185363, 1048576};

struct Figure {
  std::string name;
  std::vector<int64_t> segments;
  std::vector<int64_t> rates;
  int64_t len;
  HeadOffset offset;
  bool causal;
  int32_t tile;  // rows, and columns of a block
  double most;   // computed columns a row, mean over 16 KV heads
};
void PrintTo(const Figure& f, std::ostream* os) { *os << f.name; }

class Figures : public ::testing::TestWithParam<Figure> {};

TEST_P(Figures, AreReached) {
  const Figure& f = GetParam();
  const Pattern pattern = Pattern::dilated(f.segments, f.rates, {.causal = f.causal, .head_offset = f.offset});
  const Extent extent{.heads = 16, .kv_heads = 16, .len_q = f.len, .len_k = f.len};
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Plan plan = compile(pattern, extent, {.tile_rows = f.tile, .column_block = f.tile}, direction);
    const PlanCounts counts = count(plan.view(), extent);
    EXPECT_EQ(counts.rows, 16 * f.len);
    EXPECT_LE(counts.computed_per_row(), f.most);
    EXPECT_GE(counts.computed_pairs, counts.seen_pairs);
    // Partial results are kept for a quarter of the rows at most.
    EXPECT_LE(static_cast<double>(counts.merged_rows), 0.25 * static_cast<double>(counts.rows));
  }
}

std::vector<Figure> figures() {
  const auto modulo = HeadOffset::kModulo, block = HeadOffset::kBlock;
  std::vector<Figure> all;
  for (const int64_t len : {int64_t{32768}, int64_t{131072}}) {
    const std::string at = len == 32768 ? "32k" : "128k";
    all.push_back({"doubling_" + at, kLongNetSegments, kDoublingRates, len, modulo, false, 128, 3100});
    all.push_back({"doubling_causal_" + at, kLongNetSegments, kDoublingRates, len, modulo, true, 128, 1850});
    all.push_back({"doubling_causal_64_" + at, kLongNetSegments, kDoublingRates, len, modulo, true, 64, 1730});
    all.push_back({"doubling_block_" + at, kLongNetSegments, kDoublingRates, len, block, false, 128, 3250});
    all.push_back({"doubling_block_causal_" + at, kLongNetSegments, kDoublingRates, len, block, true, 128, 1950});
    all.push_back({"doubling_block_causal_64_" + at, kLongNetSegments, kDoublingRates, len, block, true, 64, 1820});
    all.push_back({"longnet_" + at, kLongNetSegments, kLongNetRates, len, modulo, false, 128, 3600});
    all.push_back({"longnet_causal_" + at, kLongNetSegments, kLongNetRates, len, modulo, true, 128, 2100});
  }
  all.push_back({"gigapath", kGigaPathSegments, kDoublingRates, 10001, modulo, false, 128, 2750});
  all.push_back({"gigapath_causal", kGigaPathSegments, kDoublingRates, 10001, modulo, true, 128, 1680});
  all.push_back({"gigapath_block", kGigaPathSegments, kDoublingRates, 10001, block, false, 128, 3000});
  all.push_back({"gigapath_block_causal", kGigaPathSegments, kDoublingRates, 10001, block, true, 128, 1760});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Search, Figures, ::testing::ValuesIn(figures()),
                         [](const auto& info) { return info.param.name; });

TEST(Figures, FusedGroupsShareOneLevelWithoutMerging) {
  const Pattern pattern = Pattern::dilated(kLongNetSegments, kDoublingRates);
  const Extent extent{.heads = 16, .kv_heads = 16, .len_q = 32768, .len_k = 32768};
  const Plan plan = compile(pattern, extent, {});
  ASSERT_EQ(plan.classes.size(), 16u);
  for (const PlanClass& c : plan.classes) {
    EXPECT_EQ(c.level_count, 1);
    EXPECT_EQ(c.partial_rows, 0);
    EXPECT_EQ(plan.levels[c.level_begin].stride, 16);
  }
  const PlanCounts counts = count(plan.view(), extent);
  // 2048 keys of the own segment, and 1024 more of every further group that samples the row: 1/2 + 1/4 + 1/8 + 1/16.
  EXPECT_EQ(counts.seen_per_row(), 2048 + 1024 * 15.0 / 16);
  EXPECT_EQ(counts.computed_pairs, counts.seen_pairs);
  EXPECT_EQ(counts.merged_rows, 0);
}

TEST(Figures, CausalTakesTwoLevels) {
  const Pattern pattern = Pattern::dilated(kLongNetSegments, kDoublingRates, {.causal = true});
  const Extent extent{.heads = 1, .kv_heads = 1, .len_q = 32768, .len_k = 32768};
  const Plan plan = compile(pattern, extent, {});
  ASSERT_EQ(plan.levels.size(), 2u);
  EXPECT_EQ(plan.levels[0].stride, 16);
  EXPECT_TRUE(plan.levels[1].stride == 2 || plan.levels[1].stride == 4) << plan.levels[1].stride;
}

TEST(Figures, DenseAttentionIsOneLevelOfWholeTiles) {
  const Pattern pattern = Pattern::dilated({1 << 14}, {1}, {.causal = true});
  const Extent extent{.len_q = 1 << 14, .len_k = 1 << 14};
  const Plan plan = compile(pattern, extent, {});
  ASSERT_EQ(plan.levels.size(), 1u);
  ASSERT_EQ(plan.tiles.size(), (1u << 14) / 128);
  EXPECT_EQ(plan.runs.size(), plan.tiles.size());
  // The longest tile comes first.
  EXPECT_EQ(plan.tiles.front().row0, (1 << 14) - 128);
  EXPECT_EQ(plan.runs[plan.tiles.front().run_begin].columns, 1 << 14);
  const double n = 1 << 14;
  EXPECT_EQ(static_cast<double>(count(plan.view(), extent).seen_pairs), n * (n + 1) / 2);
  EXPECT_EQ(useful_flops(plan.view(), extent, 64), 4 * 64 * n * (n + 1) / 2);
}

TEST(Figures, NominalFlopsAreTheFieldsFigure) {
  const Extent extent{.batch = 2, .heads = 8, .kv_heads = 4, .len_q = 32768, .len_k = 32768};
  // 2048 + 1024 + 512 + 256 + 128 keys a query.
  EXPECT_EQ(nominal_flops(Pattern::dilated(kLongNetSegments, kDoublingRates), extent, 64),
            4.0 * 64 * 2 * 8 * 32768 * 3968);
  EXPECT_EQ(nominal_flops(Pattern::dilated(kLongNetSegments, kDoublingRates, {.causal = true}), extent, 64),
            4.0 * 64 * 2 * 8 * 32768 * 1984);
}

TEST(Figures, ManyGroupsAreSearchedToo) {
  // Eight groups: levels are ranges in order of rate.
  std::vector<int64_t> segments, rates;
  for (int64_t g = 0; g < 8; ++g) {
    segments.push_back(int64_t{1024} << g);
    rates.push_back(int64_t{1} << g);
  }
  const Pattern pattern = Pattern::dilated(segments, rates);
  const Extent extent{.heads = 1, .kv_heads = 1, .len_q = 131072, .len_k = 131072};
  const Plan plan = compile(pattern, extent, {});
  double per_group = 0;
  for (size_t g = 0; g < segments.size(); ++g) {
    per_group += static_cast<double>(segments[g]) / static_cast<double>(rates[g] * rates[g]);
  }
  EXPECT_LT(count(plan.view(), extent).computed_per_row(), 0.85 * per_group);
}

}  // namespace
}  // namespace longstride
