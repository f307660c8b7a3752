// verify() on plans that are right, and on plans broken in one place each, which it must name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "test/engine/cases.h"

namespace longstride {
namespace {

using testing::HasSubstr;

TEST(Verify, CompiledPlansAreRight) {
  int failures = 0;
  test::for_each_case(1000, test::Poison::kNone, [&](const test::Case& c) {
    if (failures >= 5) return;
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Plan plan = compile(c.pattern(), c.extent(), c.geometry, direction);
      const std::string wrong = verify(plan.view(), c.pattern(), c.extent());
      failures += !wrong.empty();
      EXPECT_EQ("", wrong) << (direction == Direction::kForward ? "forward " : "transposed ") << c.words();
    }
  });
}

// Two levels by hand. 8 positions; group (8, 2) offset 0: rows 0, 2, 4, 6 see one another; group (4, 1): halves.
class BrokenPlan : public testing::Test {
 protected:
  void SetUp() override {
    DilatedOptions options;
    options.offsets = std::vector<int64_t>{0, 0};
    pattern_ = Pattern::dilated({8, 4}, {2, 1}, options);
    extent_.len_q = extent_.len_k = 8;
    plan_.geometry.tile_rows = 4;
    plan_.class_of = {0};
    plan_.classes = {{0, 2, 4}};
    plan_.levels = {{2, 0, 1, true}, {1, 1, 1, false}};
    plan_.sections = {{0, 1, 1, 0, 0}, {1, 1, 2, 4, 0}};
    plan_.tiles = {{0, 4, 0, 1, 0, 0, 0, 0}, {0, 4, 1, 1, 0, 0, 0, 1}};
    longstride::Run sparse, near;
    sparse.columns = near.columns = 4;
    sparse.row_end = near.row_end = 4;
    plan_.runs = {sparse, near};
    Merge merge;  // rows 0 and 2 of each half; the second half finds its rows two slots on
    merge.slot_shift = 2;
    merge.row_step = 2;
    merge.rows = 2;
    plan_.merges = {merge};
  }
  std::string verdict() const { return verify(plan_.view(), pattern_, extent_); }

  Pattern pattern_ = Pattern::dilated({1}, {1});
  Extent extent_;
  Plan plan_;
};

TEST_F(BrokenPlan, IsRightBeforeItIsBroken) { EXPECT_EQ("", verdict()); }

TEST_F(BrokenPlan, WrongWeight) {
  plan_.runs[0].weight = 2;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 0 have weight 3, must have 2"));
}

TEST_F(BrokenPlan, PairsMissing) {
  plan_.runs[1].columns = 3;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 3 have weight 0, must have 1"));
}

TEST_F(BrokenPlan, DiagonalOff) {
  plan_.runs[1].diagonal = 2;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 2"));
}

TEST_F(BrokenPlan, LowOff) {
  plan_.runs[0].low = 1;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 0 have weight 1, must have 2"));
}

TEST_F(BrokenPlan, RowsOfARunOff) {
  plan_.runs[1].row_begin = 1;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 0 have weight 1, must have 2"));
}

TEST_F(BrokenPlan, CausalPatternNotCausalPlan) {
  DilatedOptions options = pattern_.options();
  options.causal = true;
  pattern_ = Pattern::dilated({8, 4}, {2, 1}, options);
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 1 have weight 1, must have 0"));
}

TEST_F(BrokenPlan, ColumnOutside) {
  plan_.runs[0].column0 = 2;
  EXPECT_THAT(verdict(), HasSubstr("columns 2..8 of [0, 8)"));
}

TEST_F(BrokenPlan, RowNotCovered) {
  plan_.sections[1].repeats = 1;
  EXPECT_THAT(verdict(), HasSubstr("the base level has 4 rows of 8"));
}

TEST_F(BrokenPlan, RowTwice) {
  plan_.sections[1].shift = 3;
  EXPECT_THAT(verdict(), HasSubstr("slot"));  // the rows and their slots part company first
  plan_.merges.clear();
  plan_.tiles[1].merge_count = 0;
  EXPECT_THAT(verdict(), HasSubstr("has row 3 twice"));
}

TEST_F(BrokenPlan, MergeOfAnotherRow) {
  plan_.merges[0].slot = 1;
  EXPECT_THAT(verdict(), HasSubstr("row 0 merges slot 1, which holds row 2"));
}

TEST_F(BrokenPlan, MergeForgotten) {
  plan_.merges[0].rows = 1;
  EXPECT_THAT(verdict(), HasSubstr("slot 1 (row 2) is never merged"));
}

TEST_F(BrokenPlan, MergeTwice) {
  plan_.merges.push_back(plan_.merges[0]);
  plan_.tiles[1].merge_count = 2;
  EXPECT_THAT(verdict(), HasSubstr("merged before"));
}

TEST_F(BrokenPlan, MergeOutsideTheSlots) {
  plan_.merges[0].slot_shift = 3;
  EXPECT_THAT(verdict(), HasSubstr("slot"));
}

TEST_F(BrokenPlan, SlotsTooFew) {
  plan_.classes[0].partial_rows = 3;
  EXPECT_THAT(verdict(), HasSubstr("row 6 is kept in slot 3 of 3"));
}

TEST_F(BrokenPlan, BaseMissing) {
  plan_.levels[1].partial = true;
  EXPECT_THAT(verdict(), HasSubstr("the last level and only it must be the base"));
}

TEST_F(BrokenPlan, PhantomsForgottenAndInvented) {
  plan_.phantoms = {{1, 2, 3}};
  plan_.tiles[0].phantom_count = 1;
  EXPECT_THAT(verdict(), HasSubstr("query 2 has 3 phantoms, must have 0"));
  plan_.phantoms.clear();
  plan_.tiles[0].phantom_count = 0;
  DilatedOptions options = pattern_.options();
  options.padding = Padding::kZeroKeys;
  pattern_ = Pattern::dilated({8, 3}, {2, 1}, options);
  EXPECT_NE("", verdict());
}

TEST_F(BrokenPlan, IndicesOutsideTheArrays) {
  const Plan whole = plan_;
  plan_.tiles[0].run_count = 5;
  EXPECT_THAT(verdict(), HasSubstr("runs [0, 5) lie outside"));
  plan_ = whole;
  plan_.sections[0].tile_begin = 2;
  EXPECT_THAT(verdict(), HasSubstr("tiles [2, 3) lie outside"));
  plan_ = whole;
  plan_.class_of = {1};
  EXPECT_THAT(verdict(), HasSubstr("class 1 of 1"));
  plan_ = whole;
  plan_.tiles[0].rows = 5;
  EXPECT_THAT(verdict(), HasSubstr("tile 0 has 5 rows"));
}

TEST_F(BrokenPlan, TransposedIsCheckedTheOtherWayRound) {
  // A symmetric pattern: the same arrays are a transposed plan once "everything" is written from the other side.
  plan_.direction = Direction::kTransposed;
  for (longstride::Run& run : plan_.runs) run.diagonal = -longstride::Run::kEverything;
  EXPECT_EQ("", verdict());
  plan_.runs[1].diagonal = 1;
  EXPECT_THAT(verdict(), HasSubstr("query 0 and key 0"));
}

// Every weight, diagonal, column and row of a compiled plan matters: change one, and verify() speaks.
TEST(Verify, NoNumberOfACompiledPlanIsIdle) {
  test::Choice choice(test::kFactors, 0);
  choice[test::kCausal] = 1;
  choice[test::kHeads] = 1;
  const test::Case c = test::make_case(choice, 3, test::Poison::kNone);
  const Plan whole = compile(c.pattern(), c.extent(), c.geometry);
  ASSERT_EQ("", verify(whole.view(), c.pattern(), c.extent()));
  const auto spoken = [&](const Plan& plan) { return !verify(plan.view(), c.pattern(), c.extent()).empty(); };
  for (size_t n = 0; n < whole.runs.size(); ++n) {
    Plan plan = whole;
    ++plan.runs[n].weight;
    EXPECT_TRUE(spoken(plan)) << "weight of run " << n;
    plan = whole;
    ++plan.runs[n].columns;
    --plan.runs[n].column0;
    EXPECT_TRUE(spoken(plan)) << "columns of run " << n;
    plan = whole;
    --plan.runs[n].row_end;
    EXPECT_TRUE(spoken(plan)) << "rows of run " << n;
  }
  for (size_t t = 0; t < whole.tiles.size(); ++t) {
    Plan plan = whole;
    ++plan.tiles[t].row0;
    EXPECT_TRUE(spoken(plan)) << "row0 of tile " << t;
    plan = whole;
    --plan.tiles[t].rows;
    EXPECT_TRUE(spoken(plan)) << "rows of tile " << t;
  }
  for (size_t m = 0; m < whole.merges.size(); ++m) {
    Plan plan = whole;
    ++plan.merges[m].slot;
    EXPECT_TRUE(spoken(plan)) << "slot of merge " << m;
  }
}

TEST(Verify, NoDiagonalOfAWindowIsIdle) {
  const Pattern window = Pattern::block_sparse({{1, SlidingWindow{.left = 5, .right = 3}}});
  const Extent extent{.len_q = 40, .len_k = 40};
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Plan whole = compile(window, extent, {.tile_rows = 16}, direction);
    int64_t diagonals = 0;
    for (size_t n = 0; n < whole.runs.size(); ++n) {
      for (int64_t longstride::Run::*const of : {&longstride::Run::low, &longstride::Run::diagonal}) {
        if (std::abs(whole.runs[n].*of) == longstride::Run::kEverything) continue;
        ++diagonals;
        for (const int64_t off : {-1, 1}) {
          Plan plan = whole;
          plan.runs[n].*of += off;
          EXPECT_NE("", verify(plan.view(), window, extent)) << n;
        }
      }
    }
    EXPECT_GE(diagonals, 4);
  }
}

// A mark at a run that ends earlier would show a later query what its segments do not.
TEST(Verify, OnlyWhatEndsWithTheQueryGrows) {
  const Pattern pattern = Pattern::dilated({8, 32}, {1, 2}, {.causal = true, .offsets = std::vector<int64_t>{0, 1}});
  const Extent extent{.len_q = 1, .len_k = 32, .query_start = 29};
  const Plan whole = compile(pattern, extent, {});
  ASSERT_EQ("", verify(whole.view(), pattern, extent));
  int64_t marked = 0;
  for (size_t n = 0; n < whole.runs.size(); ++n) {
    if (whole.runs[n].grows()) continue;
    Plan plan = whole;
    plan.runs[n].diagonal = longstride::Run::kGrows;
    EXPECT_THAT(verify(plan.view(), pattern, extent), HasSubstr("a run that grows ends at"));
    ++marked;
  }
  EXPECT_TRUE(0 < marked && marked < std::ssize(whole.runs));
  const Extent two{.len_q = 2, .len_k = 32, .query_start = 29};
  Plan plan = compile(pattern, two, {});
  plan.runs[0].diagonal = longstride::Run::kGrows;
  EXPECT_NE("", verify(plan.view(), pattern, two));
}

}  // namespace
}  // namespace longstride
