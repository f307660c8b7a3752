// Sliding windows by token: runs with two diagonals, and what they cost beside the same window in blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <map>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/pattern/json.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"
#include "test/engine/cases.h"

namespace longstride {
namespace {

constexpr int64_t kLen = 16384;
constexpr Extent kExtent = {.len_q = kLen, .len_k = kLen};

// The CPU engine's tiles.
Geometry geometry(Direction direction, bool causal) {
  const bool forward = direction == Direction::kForward;
  return {.tile_rows = forward ? 256 : 128,
          .column_block = causal ? 32 : 64,
          .column_quantum = 32,
          .run_row_quantum = 16,
          .diagonal_rows = 32,
          .run_columns = forward ? 400.0 / 256 : 400.0 / 128,
          .tile_columns = forward ? 400.0 / 256 : 400.0 / 128};
}

Pattern alone(const BlockPattern& block, bool causal) { return Pattern::block_sparse({block}, causal); }

TEST(Windows, ByTokenMultiplyLittleMoreThanByBlocksOf64) {
  for (const bool causal : {false, true}) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const auto counted = [&](const BlockPattern& block) {
        return count(compile(alone(block, causal), kExtent, geometry(direction, causal), direction).view(), kExtent);
      };
      const PlanCounts blocks = counted({64, LocalWindow{.window = 2048}});
      const PlanCounts tokens = counted({1, SlidingWindow{.left = 1024, .right = 1024}});
      const PlanCounts sinks = counted({1, SlidingWindow{.left = 1024, .right = 1024, .sink_tokens = 4}});
      const PlanCounts small = counted({1, LocalWindow{.window = 2048}});
      EXPECT_LE(100 * tokens.computed_pairs, 115 * blocks.computed_pairs) << causal;
      EXPECT_LE(tokens.runs, tokens.tiles + 40) << causal;  // one a tile, but where the window meets an end
      EXPECT_LE(sinks.runs, 2 * sinks.tiles + 40) << causal;
      EXPECT_EQ(small.seen_pairs, tokens.seen_pairs);
      EXPECT_LE(100 * small.computed_pairs, 101 * tokens.computed_pairs) << causal;
      EXPECT_LE(small.runs, tokens.runs + 2) << causal;
    }
  }
}

// Pairs that a window with sinks shows to `len` tokens.
int64_t window_pairs(int64_t len, int64_t left, int64_t right, int64_t sinks) {
  int64_t pairs = 0;
  for (int64_t q = 0; q < len; ++q) {
    for (int64_t k = 0; k < len; ++k) pairs += (k >= q - left && k <= q + right) || k < sinks;
  }
  return pairs;
}

TEST(Windows, AreCounted) {
  for (const int64_t sinks : {0, 3}) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Extent extent{.len_q = 700, .len_k = 700};
      const Pattern pattern = alone({1, SlidingWindow{.left = 100, .right = 20, .sink_tokens = sinks}}, false);
      const Plan plan = compile(pattern, extent, geometry(direction, false), direction);
      EXPECT_EQ(count(plan.view(), extent).seen_pairs, window_pairs(700, 100, 20, sinks));
    }
  }
}

// What levels and tiles with two diagonals share is counted once.
TEST(Windows, AreCountedOnceBesideOtherLevels) {
  int64_t several = 0, windows = 0;
  test::for_each_case(300, test::Poison::kNone, [&](const test::Case& c) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(c.pattern(), c.extent(), c.geometry, direction);
      for (size_t n = 0; n < plan.classes.size(); ++n) {
        std::map<std::pair<int64_t, int64_t>, int64_t> times;
        for_each_pair(plan.view(), plan.classes[n], [&](int64_t row, int64_t column, int32_t) {
          several += ++times[{row, column}] == 2;
        });
        ASSERT_EQ(count(plan.view(), static_cast<int64_t>(n)).seen_pairs, static_cast<int64_t>(times.size()))
            << c.words();
      }
      for (const longstride::Run& run : plan.runs) windows += run.low != -longstride::Run::kEverything;
    }
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GT(several, test::share(10'000));
  EXPECT_GT(windows, test::share(1'000));
}

// A step of decoding plans its row alone, and reads the window and the sinks.
TEST(Windows, OneQueryReadsItsWindow) {
  const Pattern pattern = alone({1, SlidingWindow{.left = 1023, .right = 0, .sink_tokens = 4}}, true);
  const Extent extent{.len_q = 1, .len_k = kLen, .query_start = kLen - 1};
  const Plan plan = compile(pattern, extent, geometry(Direction::kForward, true));
  ASSERT_EQ(plan.runs.size(), 2U);
  EXPECT_EQ(plan.runs[0].column0, 0);
  EXPECT_EQ(plan.runs[0].columns, 4);
  EXPECT_EQ(plan.runs[1].column0, kLen - 1024);
  EXPECT_EQ(plan.runs[1].columns, 1024);
  EXPECT_EQ("", verify(plan.view(), pattern, extent));
}

// Blocks of 2 to 7 tokens slide at the stride of a block: lengths and documents that end within one, queries that begin
// within one, beside groups.
TEST(Windows, SmallBlocksAreWhatTheyShow) {
  int64_t by_stride = 0;
  for (const int64_t size : {2, 3, 5, 7, 8}) {
    const std::vector<std::vector<BlockPattern>> unions = {
        {{size, LocalWindow{.window = 4 * size}}},
        {{size, DilatedSparse{.rates = {3, 1}, .reach = 2}}},
        {{size, GlobalLocal{.window = 3 * size, .global_tokens = size + 1}},
         {size, DilatedSparse{.rates = {4}, .reach = 1}}},
        {{size, LocalWindow{.window = 2 * size}}, {1, SlidingWindow{.left = 7, .right = 2}}}};
    const std::vector<Extent> extents = {
        {.len_q = 90, .len_k = 90},
        {.len_q = 66, .len_k = 97, .query_start = 23},
        {.heads = 3, .kv_heads = 3, .len_q = 100, .len_k = 131, .query_start = 31, .cu_seqlens = {0, 31, 33, 84, 131}},
        {.batch = 2, .len_q = 100, .len_k = 100, .lengths = {99, 34}}};
    for (const std::vector<BlockPattern>& blocks : unions) {
      for (const Extent& extent : extents) {
        for (const bool causal : {false, true}) {
          for (const bool beside : {false, true}) {
            const Pattern groups = Pattern::dilated({16, 48}, {1, 6}, {.causal = causal});
            const Pattern pattern = beside ? groups.with_blocks(blocks) : Pattern::block_sparse(blocks, causal);
            for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
              for (const int32_t quantum : {1, 8}) {
                Geometry tiles{.tile_rows = 8, .column_block = 4, .column_quantum = quantum, .row_quantum = 1};
                if (quantum > 1) tiles.tile_rows = 16, tiles.run_row_quantum = 4, tiles.run_columns = 0.5;
                const Plan plan = compile(pattern, extent, tiles, direction);
                ASSERT_EQ("", verify(plan.view(), pattern, extent)) << size << ' ' << to_json(pattern);
                by_stride += plan.levels[plan.classes[0].level_begin + plan.classes[0].level_count - 1].stride == size;
              }
            }
          }
        }
      }
    }
  }
  EXPECT_GE(by_stride, 300);
}

// What a small block costs beside a large one, at one window in tokens.
TEST(Windows, SmallBlocksTakeFewRuns) {
  for (const bool causal : {false, true}) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const auto counted = [&](int64_t size) {
        const Pattern pattern = alone({size, LocalWindow{.window = 2048}}, causal);
        return count(compile(pattern, kExtent, geometry(direction, causal), direction).view(), kExtent);
      };
      const PlanCounts large = counted(64);
      for (const int64_t size : {1, 2, 4}) {
        const PlanCounts small = counted(size);
        // Of the blocks that two diagonals cross, in 32 rows and a block of columns each, or in a tile of the backward,
        // all pairs are computed.
        const int64_t crossed = direction == Direction::kForward ? 96 : 128;
        EXPECT_LE(small.computed_pairs, large.computed_pairs + kLen * crossed * size) << size << causal;
        EXPECT_LE(small.runs, 8 * small.tiles) << size << causal;
      }
    }
  }
}

// Pairs that the CPU engine multiplies where nothing is causal: whole blocks of 32 columns, whole 16 rows.
int64_t multiplied(const Plan& plan) {
  int64_t pairs = 0;
  for_each_tile(plan.view(), plan.classes[0], [&](const PlacedTile& at) {
    for (const Run& run : plan.view().runs_of(*at.tile)) {
      const int64_t first = run.column0 / 32, end = (run.column0 + run.columns + 31) / 32;
      pairs += 32 * (end - first) * 16 * ((run.row_end + 15) / 16 - run.row_begin / 16);
    }
  });
  return pairs;
}

// Where blocks are smaller than what is multiplied at once, runs follow the rows of their stairs.
TEST(Windows, StairsOfSmallBlocksMultiplyLittleMoreThanLargeOnes) {
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const auto planned = [&](int64_t size, int32_t quantum) {
      Geometry tiles = geometry(direction, false);
      tiles.column_quantum = quantum;
      return multiplied(compile(alone({size, LocalWindow{.window = 2048}}, false), kExtent, tiles, direction));
    };
    const int64_t large = planned(64, 32);
    EXPECT_EQ(large, planned(64, 1));
    for (const int64_t size : {8, 16}) EXPECT_LE(100 * planned(size, 32), 105 * large) << size;
    EXPECT_GE(100 * planned(8, 1), 115 * large);
  }
}

// Rules of blocks of one token slide too, and unions of what slides and what stands.
TEST(Windows, UnionsAreWhatTheyShow) {
  const std::vector<BlockPattern> rules = {{1, SlidingWindow{.left = 9, .right = 3, .sink_tokens = 5}},
                                           {1, SlidingWindow{.right = 40}},
                                           {1, DilatedSparse{.rates = {3}, .reach = 4}},
                                           {1, Axial{7}},
                                           {1, Strided{5}},
                                           {4, LocalWindow{.window = 12}},
                                           {16, RandomBlocks{.density = 0.4, .seed = 3}}};
  for (const BlockPattern& a : rules) {
    for (const BlockPattern& b : rules) {
      for (const bool causal : {false, true}) {
        const Pattern pattern =
            Pattern::dilated({16, 32}, {1, 2}, {.causal = causal}).with_blocks({a, b, {1, SlidingWindow{2, 2, 1}}});
        const Extent extent{.len_q = 60, .len_k = 90, .query_start = 20, .cu_seqlens = {0, 31, 31, 90}};
        for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
          const Geometry tiles{.tile_rows = 8, .column_block = 4, .row_quantum = 1};
          ASSERT_EQ("", verify(compile(pattern, extent, tiles, direction).view(), pattern, extent))
              << a.name() << ' ' << b.name();
        }
      }
    }
  }
}

}  // namespace
}  // namespace longstride
