// Long tiles cut into parts: what is cut and what is not, that plans with parts show the same pairs, and what verify()
// says of parts that are wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"
#include "test/engine/cases.h"
#include "test/plan/patterns.h"

namespace longstride {
namespace {

using testing::HasSubstr;

constexpr Direction kBoth[] = {Direction::kForward, Direction::kTransposed};

// The CPU engine's tiles, for so many workers.
Geometry geometry(Direction direction, int32_t workers, bool causal = false) {
  const bool forward = direction == Direction::kForward;
  return {.tile_rows = forward ? 256 : 128,
          .column_block = causal ? 32 : 64,
          .run_row_quantum = 16,
          .diagonal_rows = 32,
          .run_columns = forward ? 400.0 / 256 : 400.0 / 128,
          .workers = workers};
}

std::map<std::pair<int64_t, int64_t>, int64_t> pairs_of(const Plan& plan, size_t n) {
  std::map<std::pair<int64_t, int64_t>, int64_t> weights;
  for_each_pair(plan.view(), plan.classes[n], [&](int64_t row, int64_t column, int32_t weight) {
    weights[{row, column}] += weight;
  });
  return weights;
}

int64_t idle_base_tiles(const Plan& plan, size_t n) {
  int64_t idle = 0;
  for_each_tile(plan.view(), plan.view().levels_of(plan.classes[n]).back(),
                [&](const PlacedTile& at) { idle += at.tile->run_count == 0; });
  return idle;
}

bool has_parts(const Plan& plan) {
  return std::any_of(plan.levels.begin(), plan.levels.end(), [](const Level& l) { return l.parts != Parts::kNone; });
}

bool same_arrays(const Plan& a, const Plan& b) {
  const auto bytes = [](const Plan& plan) {
    std::string all;
    const auto add = [&](const auto& array) {
      for (const auto& element : array) all.append(reinterpret_cast<const char*>(&element), sizeof(element));
      all += '|';
    };
    add(plan.class_of);
    add(plan.sections);
    add(plan.tiles);
    add(plan.phantoms);
    for (const longstride::Run& r : plan.runs) {
      for (const int64_t value : {r.column0, r.columns, int64_t{r.residue_step}, int64_t{r.residues}, r.diagonal, r.low,
                                  int64_t{r.weight}, int64_t{r.row_begin}, int64_t{r.row_end}})
        all += std::to_string(value) + ' ';
    }
    for (const Level& l : plan.levels) all += std::to_string(l.stride) + (l.partial ? "p" : "b");
    return all;
  };
  return bytes(a) == bytes(b) && a.merges.size() == b.merges.size();
}

// Every option that a case can have, crossed with workers; merging and parts are free, so that much is cut.
TEST(PlanParts, ShowWhatThePatternShows) {
  std::map<std::string, int64_t> met;
  test::for_each_case(600, test::Poison::kNone, [&](const test::Case& c) {
    for (const Direction direction : kBoth) {
      Geometry g = c.geometry;
      g.merge_columns = g.part_columns = g.run_columns = g.tile_columns = 0;
      const Plan whole = compile(c.pattern(), c.extent(), g, direction);
      for (const int32_t workers : {2, 5, 16}) {
        g.workers = workers;
        const Plan plan = compile(c.pattern(), c.extent(), g, direction);
        ASSERT_EQ("", verify(plan.view(), c.pattern(), c.extent())) << workers << ' ' << c.words();
        if (!has_parts(plan)) continue;
        int64_t longest_cut = 0;
        for (size_t n = 0; n < plan.classes.size(); ++n) {
          const auto weights = pairs_of(plan, n);
          EXPECT_EQ(weights, pairs_of(whole, n));
          const PlanCounts got = count(plan.view(), static_cast<int64_t>(n));
          const PlanCounts want = count(whole.view(), static_cast<int64_t>(n));
          ASSERT_EQ(got.seen_pairs, static_cast<int64_t>(weights.size())) << c.words();
          // Parts beyond the first add a tile each; a base tile that keeps none stays, to merge.
          const int64_t emptied = idle_base_tiles(plan, n) - idle_base_tiles(whole, n);
          ASSERT_EQ(got.tiles - want.tiles, got.parts - got.split_tiles + emptied) << c.words();
          EXPECT_EQ(got.rows, want.rows);
          longest_cut = std::max(longest_cut, got.parts);
        }
        ++met[direction == Direction::kForward ? "forward" : "transposed"];
        for (const Level& l : plan.levels) {
          met["some"] += l.parts == Parts::kSome;
          met["of base"] += l.parts == Parts::kOfBase;
          met["stride"] += l.parts != Parts::kNone && l.stride > 1;
        }
        met["repeats"] +=
            std::any_of(plan.sections.begin(), plan.sections.end(), [](const Section& s) { return s.repeats > 1; });
        met["phantoms"] += !plan.phantoms.empty();
        met["documents"] += c.choice[test::kDocuments] == 1;
        met["lengths"] += c.choice[test::kDocuments] == 2;
        met["causal"] += c.choice[test::kCausal];
        met["query_start"] += c.choice[test::kStart];
        met["windows"] += c.choice[test::kWindow] > 0;
        met["blocks"] += c.choice[test::kBlocks] > 0;
        met["many"] += longest_cut >= 16;
      }
    }
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  for (const auto& [what, times] : met) EXPECT_GE(times, test::share(40)) << what;
  EXPECT_EQ(met.size(), 14U);
}

TEST(PlanParts, OrdinaryPatternsStayWhole) {
  for (const auto& segments : {test::kFixed, test::kGrowing}) {
    for (const bool causal : {false, true}) {
      for (const Direction direction : kBoth) {
        const Pattern pattern = Pattern::dilated(segments, test::kDoubling, {.causal = causal});
        for (const int64_t len : {int64_t{32768}, test::kMillion}) {
          const Plan one = compile(pattern, test::square(16, len), geometry(direction, 1, causal), direction);
          for (const int32_t workers : {2, 4}) {
            const Plan many = compile(pattern, test::square(16, len), geometry(direction, workers, causal), direction);
            EXPECT_TRUE(same_arrays(one, many)) << len << ' ' << workers << ' ' << causal;
            EXPECT_EQ(count(many.view(), 0).split_tiles, 0);
          }
        }
      }
    }
  }
}

// One query against a million keys: as many parts as workers, of as many keys, which the base tile merges.
TEST(PlanParts, ADecodingStepFillsTheMachine) {
  const Pattern pattern = Pattern::dilated({test::kMillion}, {1}, {.causal = true});
  const Extent extent = test::step(8, test::kMillion);
  for (const int32_t workers : {2, 8, 64}) {
    const Plan plan = compile(pattern, extent, geometry(Direction::kForward, workers, true));
    const PlanCounts counts = count(plan.view(), 0);
    EXPECT_EQ(counts.split_tiles, 1);
    EXPECT_EQ(counts.parts, workers);
    EXPECT_EQ(counts.merged_rows, workers);
    EXPECT_EQ(counts.seen_pairs, test::kMillion);
    EXPECT_EQ(counts.computed_pairs, 16 * test::kMillion);
    ASSERT_EQ(plan.levels.size(), 2U);
    EXPECT_EQ(plan.levels[0].parts, Parts::kOfBase);
    for (const longstride::Run& run : plan.runs) EXPECT_NEAR(run.columns, test::kMillion / workers, 64) << workers;
    EXPECT_EQ("", verify(plan.view(), pattern, extent));
    EXPECT_THAT(describe(plan.view(), extent), HasSubstr("1 tile cut into " + std::to_string(workers) + " parts"));
  }
}

// A decoding step too short to be worth another thread's attention.
TEST(PlanParts, AShortStepStaysWhole) {
  const Pattern pattern = Pattern::dilated({4096}, {1}, {.causal = true});
  EXPECT_FALSE(has_parts(compile(pattern, test::step(8, 1024), geometry(Direction::kForward, 8, true))));
}

// Two global rows among 64k: their tile is longer than the others of many workers together. Its parts have two rows;
// the rest of the tile, and all other tiles, stay where they are. So do two global columns in the transposed plan.
TEST(PlanParts, GlobalRowsAndColumnsAreCut) {
  constexpr int64_t kLen = 65536;
  const Extent extent = test::square(1, kLen);
  const Pattern pattern = Pattern::block_sparse({{1, GlobalLocal{.window = 256, .global_tokens = 2}}});
  for (const Direction direction : kBoth) {
    const Plan one = compile(pattern, extent, geometry(direction, 1), direction);
    const Plan plan = compile(pattern, extent, geometry(direction, 64), direction);
    const PlanCounts whole = count(one.view(), 0), counts = count(plan.view(), 0);
    EXPECT_FALSE(has_parts(compile(pattern, extent, geometry(direction, 2), direction)));
    EXPECT_EQ(counts.split_tiles, 1);
    EXPECT_GE(counts.parts, 8);
    EXPECT_EQ(counts.seen_pairs, whole.seen_pairs);
    EXPECT_LE(100 * counts.computed_pairs, 101 * whole.computed_pairs);
    // One part may have rows of the whole tile, where what they all see is cut; the others have the two.
    EXPECT_LE(counts.merged_rows, one.geometry.tile_rows + 2 * counts.parts);
    const auto longest = [&](const Plan& of) {
      int64_t most = 0;
      for (const Tile& tile : of.tiles) {
        int64_t columns = 0;
        for (const longstride::Run& run : of.view().runs_of(tile)) columns += run.columns * run.residues;
        most = std::max(most, columns);
      }
      return most;
    };
    EXPECT_GE(longest(one), kLen);
    EXPECT_LE(longest(plan), kLen / 8);
  }
}

// Two blocks of global columns that take as long as their share of the processors for all else: no order makes up for
// them, so they are cut though all ends about together. Tiles alike, which end together, are not.
TEST(PlanParts, WhatBindsAShareOfTheMachineIsCut) {
  const Geometry hopper{.tile_rows = 128,
                        .column_block = 64,
                        .row_quantum = 128,
                        .run_columns = 100,
                        .tile_columns = 384,
                        .workers = 8,
                        .part_columns = 384};
  const BlockPattern global{128, GlobalLocal{.window = 1024, .global_tokens = 256}};
  const Pattern pattern = Pattern::block_sparse({global}, true);
  const Extent extent = test::square(1, 32768);
  const Plan plan = compile(pattern, extent, hopper, Direction::kTransposed);
  EXPECT_EQ(count(plan.view(), 0).split_tiles, 2);
  EXPECT_EQ(count(plan.view(), 0).parts, 8);
  EXPECT_EQ("", verify(plan.view(), pattern, extent));
  for (const bool causal : {false, true}) {
    const Pattern dense = Pattern::dilated({1024}, {1}, {.causal = causal});
    EXPECT_FALSE(has_parts(compile(dense, test::square(1, 1024), hopper, Direction::kTransposed))) << causal;
  }
}

// A short batch on a large machine: the levels of a dilated pattern at length 2048 have fewer tiles than workers.
TEST(PlanParts, AShortBatchFillsTheMachine) {
  const Pattern pattern = Pattern::dilated({1024, 2048}, {1, 2});
  const Extent extent = test::square(2, 2048);
  for (const Direction direction : kBoth) {
    const Plan one = compile(pattern, extent, geometry(direction, 1), direction);
    const Plan plan = compile(pattern, extent, geometry(direction, 64), direction);
    EXPECT_GE(count(plan.view(), 0).tiles, 2 * count(one.view(), 0).tiles);
    EXPECT_EQ("", verify(plan.view(), pattern, extent));
  }
}

TEST(PlanParts, AreTheSameEveryTime) {
  const Pattern pattern = Pattern::dilated({512, 4096}, {1, 4}).with_blocks({{1, GlobalLocal{64, 3}}});
  const Extent extent = test::square(2, 4096);
  for (const Direction direction : kBoth) {
    const Plan first = compile(pattern, extent, geometry(direction, 16), direction);
    EXPECT_TRUE(has_parts(first));
    EXPECT_TRUE(same_arrays(first, compile(pattern, extent, geometry(direction, 16), direction)));
  }
}

TEST(PlanParts, WorkersThatCannotBeAreRefused) {
  const Extent extent = test::square(1, 64);
  const auto refusal = [&](const std::function<void(Geometry&)>& change) -> std::string {
    Geometry g;
    change(g);
    try {
      compile(Pattern::dilated({64}, {1}), extent, g);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_THAT(refusal([](Geometry& g) { g.workers = 0; }), HasSubstr("geometry.workers"));
  EXPECT_THAT(refusal([](Geometry& g) { g.workers = 1025; }), HasSubstr("1025"));
  EXPECT_THAT(refusal([](Geometry& g) { g.part_columns = -1; }), HasSubstr("geometry.part_columns"));
  EXPECT_EQ(refusal([](Geometry& g) { g.workers = Geometry::kMostWorkers; }), "");
}

class BrokenParts : public testing::Test {
 protected:
  std::string verdict() const { return verify(plan_.view(), pattern_, extent_); }
  const Pattern pattern_ = Pattern::dilated({4096}, {1});
  const Extent extent_ = {.len_q = 1, .len_k = 4096};
  Plan plan_ = compile(pattern_, extent_, {.run_columns = 0, .workers = 4, .part_columns = 0});
};

TEST_F(BrokenParts, IsWholeFirst) {
  EXPECT_EQ("", verdict());
  ASSERT_EQ(plan_.levels.size(), 2U);
  ASSERT_EQ(plan_.runs.size(), 4U);
}

TEST_F(BrokenParts, APairInTwoParts) {
  plan_.runs[1].column0 -= 1;
  plan_.runs[1].columns += 1;
  EXPECT_THAT(verdict(), HasSubstr("two parts show row 0 column 1023"));
}

TEST_F(BrokenParts, APairInNoPart) {
  plan_.runs[1].column0 += 1;
  plan_.runs[1].columns -= 1;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 1024 have weight 0, must have 1"));
}

TEST_F(BrokenParts, RowsTwiceInALevelWithoutParts) {
  plan_.levels[0].parts = Parts::kNone;
  EXPECT_THAT(verdict(), HasSubstr("level 0 has row 0 twice"));
}

TEST_F(BrokenParts, PartsOfTheBaseAtAnotherStride) {
  plan_.levels[1].stride = 2;
  EXPECT_THAT(verdict(), HasSubstr("does not stand before it at its stride"));
}

TEST_F(BrokenParts, TheBaseOfParts) {
  plan_.levels[1].parts = Parts::kSome;
  EXPECT_THAT(verdict(), HasSubstr("the base level 1 is one of parts"));
}

TEST_F(BrokenParts, APartForgottenByTheBase) {
  ASSERT_EQ(plan_.tiles.back().merge_count + plan_.tiles.front().merge_count, 4);
  for (Tile& tile : plan_.tiles) tile.merge_count = std::min<uint16_t>(tile.merge_count, 3);
  EXPECT_THAT(verdict(), HasSubstr("is never merged"));
}

}  // namespace
}  // namespace longstride
