// count() against the definition: a pair is seen once, whatever its weight and however many levels execute it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

// Pairs with m > 0 over batch and query heads, straight from docs/semantics.md.
int64_t defined_pairs(const Pattern& pattern, const Extent& e) {
  int64_t pairs = 0;
  for (int64_t b = 0; b < e.batch; ++b) {
    std::vector<int64_t> cu = e.cu_seqlens;
    if (cu.empty()) cu = {0, e.lengths.empty() ? e.len_k : e.lengths[b]};
    for (int64_t j = 0; j < e.kv_heads; ++j) {
      for (size_t d = 0; d + 1 < cu.size(); ++d) {
        for (int64_t q = 0; q < cu[d + 1] - cu[d]; ++q) {
          if (cu[d] + q < e.query_start || cu[d] + q >= e.query_start + e.len_q) continue;
          for (int64_t k = 0; k < (pattern.causal() ? q + 1 : cu[d + 1] - cu[d]); ++k) {
            bool seen = false;
            for (size_t g = 0; g < pattern.groups().size() && !seen; ++g) {
              const auto [w, r] = pattern.groups()[g];
              const int64_t offset = pattern.offset(g, j, e.kv_heads);
              seen = pattern.runs(g, j, e.kv_heads) && q / w == k / w && q % w % r == offset && k % w % r == offset;
            }
            pairs += seen;
          }
        }
      }
    }
  }
  return pairs * (e.heads / e.kv_heads);
}

std::string in_words(const Pattern& p, const Extent& e, const Geometry& g) {
  std::ostringstream text;
  text << "groups";
  for (const Group& group : p.groups()) text << " " << group.segment << "/" << group.rate;
  text << " causal " << p.causal() << " len_k " << e.len_k << " len_q " << e.len_q << " start " << e.query_start
       << " tile " << g.tile_rows << " documents";
  for (const int64_t c : e.cu_seqlens) text << " " << c;
  return text.str();
}

// How many classes of both plans have several levels with pairs of their own.
int64_t expect_counted(const Pattern& pattern, const Extent& e, const Geometry& geometry) {
  int64_t leveled = 0;
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Plan plan = compile(pattern, e, geometry, direction);
    EXPECT_EQ(count(plan.view(), e).seen_pairs, defined_pairs(pattern, e))
        << (direction == Direction::kForward ? "forward " : "transposed ") << in_words(pattern, e, geometry);
    for (const PlanClass& c : plan.classes) leveled += c.level_count > 1;
  }
  return leveled;
}

TEST(Counts, EverySmallPairOfGroups) {
  int64_t leveled = 0;
  for (const int64_t len : {1, 7, 24, 60}) {
    for (const int64_t w : {1, 4, 6, 9, 24}) {
      for (const int64_t r : {1, 2, 3}) {
        for (const int64_t w2 : {8, 12, 31, 100}) {
          for (const int64_t r2 : {1, 2, 4, 6, 67}) {
            for (const bool causal : {false, true}) {
              const Extent e{.heads = 2, .kv_heads = 2, .len_q = len, .len_k = len};
              leveled += expect_counted(Pattern::dilated({w, w2}, {r, r2}, {.causal = causal}), e,
                                        {.tile_rows = 4, .column_block = 4, .row_quantum = 1, .merge_columns = 0});
            }
          }
        }
      }
    }
  }
  EXPECT_GT(leveled, 500);  // the cases are about levels that overlap
}

TEST(Counts, RandomPatterns) {
  // LONGSTRIDE_SEED=n runs one case alone.
  const char* alone = std::getenv("LONGSTRIDE_SEED");
  const uint64_t begin = alone ? std::strtoull(alone, nullptr, 10) : 0;
  int64_t leveled = 0;
  for (uint64_t seed = begin; seed < (alone ? begin + 1 : 1500); ++seed) {
    SCOPED_TRACE("LONGSTRIDE_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto draw = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    const int64_t groups = draw(1, 6);
    std::vector<int64_t> segments, rates;
    for (int64_t g = 0; g < groups; ++g) {
      segments.push_back(draw(1, 80));
      rates.push_back(draw(0, 9) == 0 ? draw(60, 80) : draw(1, 9));
    }
    Extent e{.batch = draw(1, 2), .kv_heads = draw(1, 3), .len_k = draw(1, 90)};
    e.heads = e.kv_heads * draw(1, 2);
    e.query_start = draw(0, 2) == 0 ? draw(0, e.len_k) : 0;
    e.len_q = draw(0, 1) == 0 ? e.len_k - e.query_start : draw(0, e.len_k - e.query_start);
    if (draw(0, 2) == 0) {
      e.cu_seqlens = {0, draw(0, e.len_k), draw(0, e.len_k), e.len_k};
      std::sort(e.cu_seqlens.begin(), e.cu_seqlens.end());
    } else if (draw(0, 2) == 0) {
      for (int64_t b = 0; b < e.batch; ++b) e.lengths.push_back(draw(0, e.len_k));
    }
    const DilatedOptions options{.causal = draw(0, 1) == 0,
                                 .head_offset = draw(0, 1) == 0 ? HeadOffset::kModulo : HeadOffset::kGroup};
    Geometry geometry{.tile_rows = static_cast<int32_t>(draw(1, 9)), .column_block = 4, .row_quantum = 1};
    geometry.merge_columns = draw(0, 1) == 0 ? 0 : 4;
    geometry.run_columns = draw(0, 1) == 0 ? 0 : 8;
    leveled += expect_counted(Pattern::dilated(segments, rates, options), e, geometry);
  }
  EXPECT_TRUE(alone || leveled > 1000) << leveled;
}

TEST(Counts, APeriodStandsForItsRepeats) {
  const Pattern pattern = Pattern::dilated({8, 16, 32}, {1, 2, 4}, {.causal = true});
  const Geometry small{.tile_rows = 4, .column_block = 4, .row_quantum = 1, .merge_columns = 0};
  for (const int64_t start : {0, 5}) {
    const Extent e{.kv_heads = 1, .len_q = 400 - start, .len_k = 400, .query_start = start};
    const Plan plan = compile(pattern, e, small);
    ASSERT_GT(plan.levels.size(), 1u);
    ASSERT_TRUE(
        std::any_of(plan.sections.begin(), plan.sections.end(), [](const Section& s) { return s.repeats > 1; }));
    expect_counted(pattern, e, small);
  }
}

// Causal, 128 tokens in tiles of 64 rows and blocks of 16: the rows of a band see the blocks up to their own.
TEST(Counts, RowsAtTheDiagonalAreComputedByBands) {
  const Pattern dense = Pattern::dilated({128}, {1}, {.causal = true});
  const Extent e{.len_q = 128, .len_k = 128};
  Geometry geometry{.tile_rows = 64, .column_block = 16};
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 64 * (64 + 128));
  geometry.diagonal_rows = 32;
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 32 * (32 + 64 + 96 + 128));
  geometry.diagonal_rows = 16;
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 16 * 16 * (1 + 8) * 4);
  geometry.diagonal_rows = 0;
  EXPECT_THROW(compile(dense, e, geometry), Error);
}

// Two segments of 24 tokens in one tile of 48 rows, since tiles are dear: each run serves the rows of its own segment.
TEST(Counts, ARunCostsTheRowsThatItServes) {
  const Pattern dense = Pattern::dilated({24}, {1});
  const Extent e{.len_q = 48, .len_k = 48};
  Geometry geometry{.tile_rows = 64, .column_block = 16, .tile_columns = 1000};
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 48 * 48);
  geometry.run_row_quantum = 16;
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 2 * 32 * 24);
  geometry.run_row_quantum = 8;
  EXPECT_EQ(count(compile(dense, e, geometry).view(), e).computed_pairs, 2 * 24 * 24);
  geometry.run_row_quantum = 0;
  EXPECT_THROW(compile(dense, e, geometry), Error);
}

// Groups that no two can share a level: beyond eight levels pairs are listed, not intersected.
TEST(Counts, ManyLevels) {
  const std::vector<int64_t> rates = {67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 1};
  const Pattern pattern = Pattern::dilated(std::vector<int64_t>(rates.size(), 400), rates,
                                           {.causal = true, .head_offset = HeadOffset::kBlock});
  const Extent e{.kv_heads = 1, .len_q = 420, .len_k = 420};
  const Plan plan = compile(pattern, e, {.tile_rows = 8});
  EXPECT_GT(plan.levels.size(), 9u);
  expect_counted(pattern, e, {.tile_rows = 8});
}

// Levels whose sections repeat each in their own way, which no compiled plan has.
TEST(Counts, SectionsThatRepeatUnalike) {
  Plan plan;
  plan.geometry.tile_rows = 4;
  plan.class_of = {0};
  plan.classes = {{0, 2, 8}};
  plan.levels = {{2, 0, 1, true}, {1, 1, 1, false}};
  plan.sections = {{0, 1, 2, 4, 0}, {1, 1, 4, 2, 0}};  // rows 0, 2 and 4, 6; rows 0..1, 2..3, 4..5, 6..7
  plan.tiles = {Tile{.rows = 2, .run_begin = 0, .run_count = 1}, Tile{.rows = 2, .run_begin = 1, .run_count = 1}};
  plan.runs = {longstride::Run{.column0 = 0, .columns = 2, .row_end = 2},   // columns 0, 2, later 4, 6
               longstride::Run{.column0 = 0, .columns = 2, .row_end = 2}};  // columns 0..1, later 2..3 and so on
  // Partial: 2 x 2 x 2 pairs; base: 4 x 2 x 2; rows 0, 2, 4, 6 have a column of both each.
  EXPECT_EQ(count(plan.view(), 0).seen_pairs, 8 + 16 - 4);
  plan.runs[1].diagonal = 0;  // row j sees columns i < j: the rows of both levels see nothing in the base
  EXPECT_EQ(count(plan.view(), 0).seen_pairs, 8 + 4);
}

// The figure that useful FLOPs rest on: levels change nothing in it.
TEST(Counts, LevelsChangeNoUsefulWork) {
  for (const auto& rates : {std::vector<int64_t>{1, 2, 4, 8, 16}, std::vector<int64_t>{1, 2, 4, 6, 12}}) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Pattern pattern = Pattern::dilated({2048, 4096, 8192, 16384, 32768}, rates, {.causal = true});
      const Extent e{.heads = 16, .kv_heads = 16, .len_q = 65536, .len_k = 65536};
      const Plan leveled = compile(pattern, e, {}, direction);
      const Plan whole = compile(pattern, e, {.merge_columns = 1e12}, direction);
      for (const PlanClass& c : leveled.classes) EXPECT_GT(c.level_count, 1);
      for (const PlanClass& c : whole.classes) EXPECT_EQ(c.level_count, 1);
      EXPECT_EQ(count(leveled.view(), e).seen_pairs, count(whole.view(), e).seen_pairs);
      EXPECT_EQ(useful_flops(leveled.view(), e, 64), useful_flops(whole.view(), e, 64));
    }
  }
}

// What does not belong to the plan would be read beyond its arrays.
TEST(Counts, OtherPlansAndNegativeDimsAreRefused) {
  const Pattern pattern = Pattern::dilated({4, 8}, {1, 2});
  const Extent extent{.batch = 1, .heads = 2, .kv_heads = 2, .len_q = 16, .len_k = 16};
  const Plan plan = compile(pattern, extent, Geometry{});
  Extent other = extent;
  other.batch = 3;
  EXPECT_THROW(count(plan.view(), other), Error);
  EXPECT_THROW(describe(plan.view(), other), Error);
  other.batch = -1;
  EXPECT_THROW(count(plan.view(), other), Error);
  EXPECT_THROW(nominal_flops(pattern, other, 8), Error);
  EXPECT_THROW(count(plan.view(), static_cast<int64_t>(plan.classes.size())), Error);
  EXPECT_THROW(count(plan.view(), -1), Error);
  EXPECT_THROW(count(PlanView{}, 0), Error);
  EXPECT_THROW(useful_flops(plan.view(), extent, -8), Error);
  EXPECT_THROW(nominal_flops(pattern, extent, -8), Error);
  EXPECT_EQ(count(plan.view(), extent).rows, 2 * 16);
}

}  // namespace
}  // namespace longstride
