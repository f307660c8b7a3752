// The walk on a plan written by hand, against lists written by hand; then on compiled plans, against a reading of the
// words of longstride/plan.h that knows nothing of the walk.
#include "longstride/plan/walk.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

#include "test/engine/cases.h"

namespace longstride {
namespace {

// Two levels. Partial, stride 2: one tile of rows 1, 3, twice, 10 tokens apart. Base, stride 1: two tiles a period.
Plan by_hand(Direction direction) {
  const int64_t all = direction == Direction::kForward ? longstride::Run::kEverything : -longstride::Run::kEverything;
  Plan plan;
  plan.direction = direction;
  plan.geometry.tile_rows = 4;
  plan.class_of = {0};
  plan.classes = {{0, 2, 20}};
  plan.levels = {{2, 0, 1, true}, {1, 1, 1, false}};
  plan.sections = {{0, 1, 2, 10, 12}, {1, 2, 2, 10, 0}};
  plan.tiles = {{.row0 = 1, .rows = 2, .run_begin = 0, .run_count = 1, .phantom_begin = 0, .phantom_count = 2},
                {.row0 = 0, .rows = 4, .run_begin = 1, .run_count = 1, .merge_begin = 0, .merge_count = 1},
                {.row0 = 4, .rows = 1, .run_begin = 2}};
  plan.runs = {
      {.column0 = 0, .columns = 2, .residue_step = 1, .residues = 2, .diagonal = all, .weight = 3, .row_end = 1},
      {.column0 = 5, .columns = 3, .diagonal = 0, .row_begin = 1, .row_end = 4}};
  plan.phantoms = {{0, 1, 7}, {0, 2, 5}};
  plan.merges = {{.slot = 12, .slot_shift = 4, .slot_step = 1, .row_begin = 1, .row_step = 2, .rows = 2}};
  return plan;
}

using Pairs = std::vector<std::array<int64_t, 3>>;  // row, column, weight

TEST(Walk, ExecutedTilesStandWhereTheirRepeatPutsThem) {
  const Plan plan = by_hand(Direction::kForward);
  const PlanView view = plan.view();
  struct Expected {
    size_t level, tile;
    int64_t repeat, shift, slot, row1;
  };
  const std::vector<Expected> expected = {{0, 0, 0, 0, 12, 3}, {0, 0, 1, 10, 16, 13}, {1, 1, 0, 0, 0, 1},
                                          {1, 2, 0, 0, 4, 5},  {1, 1, 1, 10, 8, 11},  {1, 2, 1, 10, 12, 15}};
  size_t next = 0;
  for_each_tile(view, view.classes[0], [&](const PlacedTile& placed) {
    ASSERT_LT(next, expected.size());
    const Expected& e = expected[next++];
    EXPECT_EQ(placed.level, &view.levels[e.level]) << next;
    EXPECT_EQ(placed.tile, &view.tiles[e.tile]) << next;
    EXPECT_EQ(placed.repeat, e.repeat) << next;
    EXPECT_EQ(placed.shift, e.shift) << next;
    EXPECT_EQ(placed.slot, e.slot) << next;
    EXPECT_EQ(placed.row(1), e.row1) << next;
  });
  EXPECT_EQ(next, expected.size());
}

TEST(Walk, StoredTilesComeOnce) {
  const Plan plan = by_hand(Direction::kForward);
  const PlanView view = plan.view();
  std::vector<std::pair<const Section*, const Tile*>> stored;
  for (const Level& level : view.levels_of(view.classes[0])) {
    for_each_stored_tile(view, level, [&](const Section& s, const Tile& t) { stored.emplace_back(&s, &t); });
  }
  const std::vector<std::pair<const Section*, const Tile*>> expected = {
      {&view.sections[0], &view.tiles[0]}, {&view.sections[1], &view.tiles[1]}, {&view.sections[1], &view.tiles[2]}};
  EXPECT_EQ(stored, expected);
}

Pairs pairs_of_the_second_repeat(const Plan& plan) {
  const PlanView view = plan.view();
  Pairs pairs;
  for_each_pair(view, view.classes[0], [&](int64_t row, int64_t column, int32_t weight) {
    if (row > 10) pairs.push_back({row, column, weight});
  });
  return pairs;
}

TEST(Walk, PairsOfAForwardPlan) {
  // The first run serves row 0 of its tile only, class by class; the second sees what lies before the diagonal.
  const Pairs expected = {{11, 10, 3}, {11, 12, 3}, {11, 11, 3}, {11, 13, 3}, {11, 15, 1},
                          {12, 15, 1}, {12, 16, 1}, {13, 15, 1}, {13, 16, 1}, {13, 17, 1}};
  EXPECT_EQ(pairs_of_the_second_repeat(by_hand(Direction::kForward)), expected);
}

TEST(Walk, PairsOfATransposedPlan) {
  const Pairs expected = {{11, 10, 3}, {11, 12, 3}, {11, 11, 3}, {11, 13, 3}, {11, 16, 1}, {11, 17, 1}, {12, 17, 1}};
  EXPECT_EQ(pairs_of_the_second_repeat(by_hand(Direction::kTransposed)), expected);
}

// Rows 1 to 3 of the base tile: forward j - 2 <= i < j, transposed j <= i <= j + 1 (low counts key less query).
TEST(Walk, TwoDiagonals) {
  const auto pairs_of = [](Direction direction, int64_t low) {
    Plan plan = by_hand(direction);
    plan.runs[1].low = low;
    return pairs_of_the_second_repeat(plan);
  };
  const Pairs first = {{11, 10, 3}, {11, 12, 3}, {11, 11, 3}, {11, 13, 3}};
  Pairs forward = first, transposed = first;
  for (const auto& pair : Pairs{{11, 15, 1}, {12, 15, 1}, {12, 16, 1}, {13, 16, 1}, {13, 17, 1}})
    forward.push_back(pair);
  for (const auto& pair : Pairs{{11, 16, 1}, {11, 17, 1}, {12, 17, 1}}) transposed.push_back(pair);
  EXPECT_EQ(pairs_of(Direction::kForward, -2), forward);
  EXPECT_EQ(pairs_of(Direction::kTransposed, -1), transposed);
  transposed = first;
  transposed.insert(transposed.end(), {{11, 16, 1}, {12, 17, 1}});
  EXPECT_EQ(pairs_of(Direction::kTransposed, 0), transposed);
}

TEST(Walk, PhantomsOfARowAddUp) {
  const Plan plan = by_hand(Direction::kForward);
  const PlanView view = plan.view();
  std::map<int64_t, int64_t> counts;  // by row, over both levels
  for_each_row(view, view.classes[0], [&](const PlacedRow& row) { counts[row.position] += phantom_count(view, row); });
  const std::map<int64_t, int64_t> expected = {{0, 0},  {1, 12},  {2, 0},  {3, 5},  {4, 0},
                                               {10, 0}, {11, 12}, {12, 0}, {13, 5}, {14, 0}};
  EXPECT_EQ(counts, expected);
}

TEST(Walk, SlotsOfMergedRows) {
  const Plan plan = by_hand(Direction::kForward);
  const PlanView view = plan.view();
  std::map<int64_t, std::vector<int64_t>> slots, kept;  // by row
  for_each_row(view, view.classes[0], [&](const PlacedRow& row) {
    if (row.placed.level->partial) kept[row.position].push_back(row.slot());
    for_each_slot(view, row, [&](int64_t slot) { slots[row.position].push_back(slot); });
  });
  const std::map<int64_t, std::vector<int64_t>> expected = {{1, {12}}, {3, {13}}, {11, {16}}, {13, {17}}};
  EXPECT_EQ(kept, expected);
  EXPECT_EQ(slots, expected);
}

TEST(Walk, SlotOfARowIsThatOfItsNumber) {
  const Merge merge{.slot = 100, .slot_shift = 1000, .slot_step = 7, .row_begin = 2, .row_step = 3, .rows = 4};
  const std::vector<int64_t> expected = {-1, -1, 5100, -1, -1, 5107, -1, -1, 5114, -1, -1, 5121, -1, -1, -1};
  for (int32_t j = 0; j < 15; ++j) EXPECT_EQ(merge.slot_of_row(j, 5), expected[j]) << j;
  for (int64_t n = 0; n < 4; ++n) EXPECT_EQ(merge.slot_at(n, 5), 5100 + 7 * n);
}

// What each pair of one class counts, read off the arrays by index.
std::map<std::pair<int64_t, int64_t>, int64_t> weights_by_index(const Plan& plan, const PlanClass& c) {
  std::map<std::pair<int64_t, int64_t>, int64_t> weights;
  for (int32_t l = c.level_begin; l < c.level_begin + c.level_count; ++l) {
    const Level& level = plan.levels[l];
    for (int32_t s = level.section_begin; s < level.section_begin + level.section_count; ++s) {
      const Section& section = plan.sections[s];
      for (int64_t t = section.tile_begin; t < section.tile_begin + section.tile_count; ++t) {
        const Tile& tile = plan.tiles[t];
        for (uint32_t r = tile.run_begin; r < tile.run_begin + tile.run_count; ++r) {
          const longstride::Run& run = plan.runs[r];
          for (int64_t j = run.row_begin; j < run.row_end; ++j) {
            for (int64_t i = 0; i < run.columns; ++i) {
              const bool forward = plan.direction == Direction::kForward;
              const bool before = i < j + run.diagonal;
              if (before != forward || (forward ? i - j : j - i) < run.low) continue;
              for (int64_t n = 0; n < section.repeats * run.residues; ++n) {
                const int64_t shift = n / run.residues * section.shift, residue = n % run.residues;
                weights[{tile.row0 + j * level.stride + shift,
                         run.column0 + residue * run.residue_step + i * level.stride + shift}] += run.weight;
              }
            }
          }
        }
      }
    }
  }
  return weights;
}

TEST(Walk, CompiledPlansAreWalkedWhole) {
  int64_t compared = 0, repeated = 0, transposed = 0;
  test::for_each_case(300, test::Poison::kNone, [&](const test::Case& c) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(c.pattern(), c.extent(), c.geometry, direction);
      const PlanView view = plan.view();
      for (const Section& section : plan.sections) repeated += section.repeats > 1;
      for (const PlanClass& plan_class : plan.classes) {
        std::map<std::pair<int64_t, int64_t>, int64_t> walked;
        for_each_pair(view, plan_class, [&](int64_t row, int64_t column, int32_t weight) {
          walked[{row, column}] += weight;
        });
        ASSERT_EQ(walked, weights_by_index(plan, plan_class)) << c.words();
        compared += static_cast<int64_t>(walked.size());
        transposed += direction == Direction::kTransposed;
      }
    }
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GT(compared, test::share(100'000));
  EXPECT_GT(repeated, 0);
  EXPECT_GT(transposed, 0);
}

}  // namespace
}  // namespace longstride
