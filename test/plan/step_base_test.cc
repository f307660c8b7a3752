// One plan for many decoding steps: moved on from its base it shows what the pattern shows at every position that has
// that base, and which steps have none.
#include "plan/step_base.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "test/plan/patterns.h"

namespace longstride {
namespace {

Extent at(int64_t position, int64_t len_k) {
  return {.batch = 2, .heads = 12, .kv_heads = 6, .len_q = 1, .len_k = len_k, .query_start = position};
}

struct Case {
  const char* name;
  std::vector<int64_t> segments, rates;
  DilatedOptions options = {};
  int64_t first = 0, last = 0, step = 1;  // positions
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"doubling", {32, 64, 128}, {1, 2, 4}, {}, 0, 300},
      {"by threes and twos", {36, 90, 450}, {1, 3, 6}, {}, 0, 300},
      {"equal rates", {50, 50, 200}, {2, 2, 4}, {}, 0, 250},
      {"segments that no rate divides", {37, 75, 151}, {1, 2, 4}, {}, 0, 310},
      {"a rate of a third of its segment", {400, 130}, {1, 40}, {}, 0, 300},
      {"one group", {64}, {1}, {}, 0, 200},
      {"a row that no group samples", {64, 256}, {4, 8}, {.head_offset = HeadOffset::kGroup}, 0, 200},
      {"far from nested", {400, 100, 240}, {1, 2, 4}, {}, 0, 500},
      {"a group a range of heads", {64, 128, 256}, {1, 2, 4}, {.mixing = Mixing::kHeadPartition}, 0, 260},
      {"offsets of a table",
       {64, 128},
       {2, 4},
       {.offsets = std::vector<int64_t>{0, 1, 2, 3, 4, 5, 3, 3, 2, 2, 1, 9}},
       0,
       200},
      {"several windows", {2000, 5000}, {1, 16}, {}, 0, 4100, 7},
  };
  for (Case& c : all) c.options.causal = true;
  return all;
}

TEST(StepBase, MovedOnShowsWhatThePatternShowsAtEveryPosition) {
  for (const Case& c : cases()) {
    const Pattern pattern = Pattern::dilated(c.segments, c.rates, c.options);
    int64_t moved = 0;
    for (int64_t position = c.first; position < c.last; position += c.step) {
      const Extent extent = at(position, c.last), base = plan::step_base(pattern, extent);
      const int64_t tokens = position - base.query_start;
      ASSERT_TRUE(0 <= tokens && tokens < plan::kStepWindow) << c.name << " " << position;
      moved += tokens > 0;
      for (const int32_t workers : {1, 5, 16}) {
        const Geometry geometry{
            .tile_rows = 16, .column_block = 4, .run_columns = 0, .workers = workers, .part_columns = 1};
        const Plan plan = plan::advanced(compile(pattern, base, geometry), tokens);
        ASSERT_EQ(verify(plan.view(), pattern, extent), "") << c.name << " " << position << " workers " << workers;
      }
    }
    EXPECT_GT(moved, 0) << c.name;
  }
}

// A cache that grows with every step and one that is there from the beginning.
TEST(StepBase, IsTheSameWhateverKeysLieBehindTheQuery) {
  const Pattern pattern = test::growing(1 << 17, true);
  for (const int64_t position : {100'000, 100'001, 131'071})
    EXPECT_EQ(plan::step_base(pattern, at(position, position + 1)), plan::step_base(pattern, at(position, 1 << 20)));
}

// One for every place modulo the rates, in every window.
TEST(StepBase, FewServeMany) {
  const Pattern pattern = Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16}, {.causal = true});
  std::set<int64_t> bases;
  for (int64_t position = 2048 * 9; position < 2048 * 10; ++position)
    bases.insert(plan::step_base(pattern, at(position, 32768)).query_start);
  // The first tokens of a segment have plans of their own.
  EXPECT_EQ(std::ssize(bases), 2048 / plan::kStepWindow * 16 + 31);
}

TEST(StepBase, LeavesOtherStepsAlone) {
  const auto is_left = [](const Pattern& pattern, Extent extent) { return plan::step_base(pattern, extent) == extent; };
  const std::vector<int64_t> zeros(12, 0);
  const auto dilated = [](std::vector<int64_t> rates, DilatedOptions options = {}) {
    options.causal = true;
    return Pattern::dilated({512, 2048}, std::move(rates), options);
  };
  const Extent extent = at(1500, 4096);
  ASSERT_FALSE(is_left(dilated({1, 4}), extent));
  EXPECT_TRUE(is_left(dilated({1, 4}).with_causal(false), extent));
  EXPECT_TRUE(is_left(dilated({4, 6}), extent)) << "neither rate divides the other";
  EXPECT_TRUE(is_left(dilated({1, 128}), extent)) << "a stride that no level has";
  EXPECT_TRUE(is_left(dilated({1, 4}, {.padding = Padding::kZeroKeys}), extent)) << "phantom keys";
  EXPECT_TRUE(is_left(dilated({1, 4}).with_blocks({BlockPattern(8, LocalWindow{.window = 64})}), extent)) << "blocks";
  EXPECT_TRUE(is_left(dilated({1, 4}), at(1024 + 6, 4096))) << "the first tokens of a segment";
  Extent other = extent;
  other.len_q = 2;
  EXPECT_TRUE(is_left(dilated({1, 4}), other)) << "two queries";
  other = extent;
  other.cu_seqlens = {0, 4096};
  EXPECT_TRUE(is_left(dilated({1, 4}), other)) << "documents";
  other = extent;
  other.lengths = {4096, 4000};
  EXPECT_TRUE(is_left(dilated({1, 4}), other)) << "lengths";
}

TEST(StepBase, RefusesPartsOfAStride) {
  const Pattern pattern = Pattern::dilated({64}, {4}, {.causal = true, .offsets = std::vector<int64_t>(6, 0)});
  const Plan plan = compile(pattern, at(32, 33), {});
  EXPECT_NO_THROW(plan::advanced(plan, 8));
  EXPECT_THROW(plan::advanced(plan, 6), Error);
  EXPECT_THROW(plan::advanced(plan, -4), Error);
}

}  // namespace
}  // namespace longstride
