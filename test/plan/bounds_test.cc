// How large plans may be. How much work compiling may be: work/work_test.cc.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "test/plan/patterns.h"

namespace longstride::test {
namespace {

TEST(Bounds, LongNetPlansAreSmall) {
  for (const auto& segments : {kFixed, kGrowing}) {
    for (const auto& rates : {kDoubling, kLongNet}) {
      for (const bool causal : {false, true}) {
        for (const int32_t tile_rows : {64, 128}) {
          for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
            const Geometry geometry{.tile_rows = tile_rows, .column_block = tile_rows};
            const Plan plan = compile(Pattern::dilated(segments, rates, {.causal = causal}), square(16, kMillion),
                                      geometry, direction);
            const auto classes = static_cast<int64_t>(plan.classes.size());
            EXPECT_LE(plan.bytes(), 4 * kMillion * classes)
                << "longest segment " << segments.back() << " last rate " << rates.back() << " causal " << causal
                << " tile " << tile_rows;
            // Smaller plans are not bought with much more work: the cheapest found before bytes had a price computed
            // at most 7 % more than what is seen, too.
            if (segments == kGrowing && !causal) {
              const PlanCounts counts = count(plan.view(), 0);
              EXPECT_LE(static_cast<double>(counts.computed_pairs), 1.07 * static_cast<double>(counts.seen_pairs));
            }
          }
        }
      }
    }
  }
}

TEST(Bounds, PlansTakeNoMoreThanTheirTilesAndRuns) {
  const Extent packed{
      .heads = 4, .kv_heads = 4, .len_q = 50'000, .len_k = 50'000, .cu_seqlens = {0, 7, 9000, 9001, 50'000}};
  const Plan plan =
      compile(Pattern::dilated({100, 1000, 20'000}, {1, 3, 7}, {.padding = Padding::kZeroKeys}), packed, {});
  const auto of = [](const auto& array) { return static_cast<int64_t>(array.size()); };
  EXPECT_LE(plan.bytes(), 32 * of(plan.tiles) + 48 * of(plan.runs) + 32 * of(plan.merges) + 16 * of(plan.phantoms) +
                              40 * of(plan.sections) + 24 * of(plan.levels) + 16 * of(plan.classes) +
                              4 * of(plan.class_of));
}

TEST(Bounds, ARepeatingPatternIsStoredOnce) {
  const Plan plan = compile(Pattern::dilated(kFixed, kDoubling, {.causal = true}), square(1, kMillion), {});
  EXPECT_LT(plan.bytes(), 200'000);
  const PlanCounts counts = count(plan.view(), square(1, kMillion));
  EXPECT_EQ(counts.rows, kMillion);
  EXPECT_GE(counts.tiles, kMillion / 128);
}

TEST(Bounds, ADecodingStepIsATileAHead) {
  for (const auto& segments : {kFixed, kGrowing}) {
    for (const int64_t len : {int64_t{4096}, kMillion, int64_t{1} << 40}) {
      const Plan plan = compile(Pattern::dilated(segments, kLongNet, {.causal = true}), step(16, len), {});
      EXPECT_EQ(count(plan.view(), step(16, len)).rows, 16);
      EXPECT_LE(plan.tiles.size(), 16u);
    }
  }
}

// Of groups that do not sample its one query a step plans nothing, so heads differ only in which do.
TEST(Bounds, ADecodingStepHasOneClassForHeadsThatSeeAlike) {
  const Pattern pattern = Pattern::dilated(kFixed, kDoubling, {.causal = true});
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    for (const int64_t query_start : {2047, 2040, 1536, 5}) {
      const Extent extent{.heads = 16, .kv_heads = 16, .len_q = 1, .len_k = 2048, .query_start = query_start};
      const Plan plan = compile(pattern, extent, {.workers = 8}, direction);
      EXPECT_EQ(plan.classes.size(), 5u);
      EXPECT_EQ(verify(plan.view(), pattern, extent), "");
      for (int64_t j = 0; j < 16; ++j) {
        const auto sees = [&](int64_t other) {
          int64_t groups = 0;
          for (const int64_t rate : kDoubling) groups += query_start % rate == other % rate;
          return groups;
        };
        for (int64_t other = 0; other < 16; ++other)
          EXPECT_EQ(plan.class_of[j] == plan.class_of[other], sees(j) == sees(other)) << j << ' ' << other;
      }
    }
  }
  const Extent short_rows{
      .batch = 2, .heads = 16, .kv_heads = 16, .len_q = 1, .len_k = 4096, .query_start = 4000, .lengths = {3000, 4096}};
  const Plan plan = compile(pattern, short_rows, {});
  EXPECT_EQ(plan.classes.size(), 6u);
  EXPECT_EQ(verify(plan.view(), pattern, short_rows), "");
}

TEST(Bounds, BlockPlansTakeNoMoreThanTheirTilesAndRuns) {
  const Extent e{.heads = 2, .kv_heads = 2, .len_q = 16 << 10, .len_k = 16 << 10};
  for (const int64_t size : {16, 64, 256}) {
    for (const BlockPattern& block : block_patterns(size)) {
      for (const bool causal : {false, true}) {
        for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
          const Plan plan = compile(Pattern::block_sparse({block}, causal), e, {}, direction);
          const auto tiles = static_cast<int64_t>(plan.tiles.size()), runs = static_cast<int64_t>(plan.runs.size());
          EXPECT_LE(plan.bytes(), 32 * tiles + 48 * runs + 500) << block.name() << size << causal;
        }
      }
    }
  }
}

// The pairs that are computed are those of active blocks: no work for absent ones, in tiles of 64 and of 128 rows.
TEST(Bounds, AbsentBlocksCostNothing) {
  const Extent e{.len_q = 8192, .len_k = 8192};
  for (const int32_t tile_rows : {64, 128}) {
    const Geometry geometry{.tile_rows = tile_rows, .column_block = 64};
    for (const int64_t size : {16, 32, 64, 128, 256}) {
      for (const BlockPattern& block : block_patterns(size)) {
        const Pattern pattern = Pattern::block_sparse({block});
        const double active = static_cast<double>(block.active_blocks(8192, false).size() * size * size);
        for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
          const PlanCounts counts = count(compile(pattern, e, geometry, direction).view(), e);
          EXPECT_EQ(static_cast<double>(counts.seen_pairs), active) << block.name() << size;
          // Blocks of at least a quantum of rows have tiles of their own wherever sharing one would waste.
          EXPECT_LE(static_cast<double>(counts.computed_pairs), 2.5 * active) << block.name() << size;
        }
      }
    }
  }
}

TEST(Bounds, ADecodingStepOfBlocksIsOneRowAHead) {
  for (const int64_t len : {int64_t{4096}, kMillion}) {
    for (const BlockPattern& block :
         {BlockPattern(64, LocalWindow{.window = 1024}), BlockPattern(64, DilatedSparse{.rates = {1, 4}, .reach = 8}),
          BlockPattern(64, GlobalLocal{512, 128})}) {
      const Plan plan = compile(Pattern::block_sparse({block}, true), step(4, len), {});
      EXPECT_EQ(count(plan.view(), step(4, len)).rows, 4) << block.name() << len;
    }
  }
}

TEST(Bounds, HugeNumbersDoNotOverflow) {
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const Extent e{.heads = 2, .kv_heads = 2, .len_q = 100, .len_k = 100};
  for (const bool causal : {false, true}) {
    const Pattern p = Pattern::dilated({kHuge, kHuge - 1, 3, kHuge}, {1, kHuge, kHuge - 1, 7}, {.causal = causal});
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(p, e, {}, direction);
      EXPECT_EQ(verify(plan.view(), p, e), "");
    }
  }
  // A step far out, and rates that no level can share.
  const int64_t far = int64_t{1} << 60;
  const Plan plan =
      compile(Pattern::dilated({far, far - 1, far}, {61, 59, far - 3}, {.causal = true}), step(1, far), {});
  EXPECT_EQ(count(plan.view(), step(1, far)).rows, 1);
}

}  // namespace
}  // namespace longstride::test
