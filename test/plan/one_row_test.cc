// Decoding steps written down from their progressions: the same pairs as the pattern shows, at every position, and
// which patterns are left to the tiler.
#include "plan/one_row.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"
#include "plan/classes.h"

namespace longstride {
namespace {

Extent at(int64_t position, int64_t len_k, std::vector<int64_t> cu_seqlens = {}) {
  return {.heads = 6,
          .kv_heads = 6,
          .len_q = 1,
          .len_k = len_k,
          .query_start = position,
          .cu_seqlens = std::move(cu_seqlens)};
}

// The stride of each class's level, 0 where the tiler makes it.
std::vector<int64_t> strides(const Pattern& pattern, const Extent& extent) {
  const plan::Scope scope{.row_begin = extent.query_start,
                          .row_end = extent.query_start + 1,
                          .column_end = extent.len_k,
                          .causal = pattern.causal(),
                          .zero_keys = pattern.options().padding == Padding::kZeroKeys};
  std::vector<int64_t> found;
  for (const plan::ClassSpec& spec : plan::classify(pattern, extent).specs) {
    std::vector<Run> runs;
    found.push_back(plan::runs_of_one_row(spec, scope, runs));
    if (found.back() == 0) {
      EXPECT_TRUE(runs.empty());
    }
  }
  return found;
}

struct Case {
  const char* name;
  std::vector<int64_t> segments, rates;
  DilatedOptions options = {};
};

std::vector<Case> cases() {
  std::vector<Case> all = {
      {"doubling", {8, 16, 32, 64}, {1, 2, 4, 8}},
      {"by threes and twos", {9, 18, 90}, {1, 3, 6}},
      {"equal rates", {8, 20, 64}, {2, 2, 4}},
      {"segments that no rate divides", {7, 15, 31}, {1, 2, 4}},
      {"rates as long as segments", {4, 4, 16}, {4, 8, 16}, {.head_offset = HeadOffset::kGroup}},
      {"one group", {64}, {1}},
      {"far from nested", {40, 10, 24}, {1, 2, 4}},
  };
  const size_t count = all.size();
  for (size_t n = 0; n < count; ++n) {
    all.push_back(all[n]);
    all.back().options.causal = true;
  }
  return all;
}

TEST(OneRow, ShowsWhatThePatternShowsAtEveryPosition) {
  for (const Case& c : cases()) {
    const Pattern pattern = Pattern::dilated(c.segments, c.rates, c.options);
    for (const int64_t len : {1, 23, 70}) {
      for (int64_t position = 0; position < len; ++position) {
        for (const int32_t workers : {1, 5}) {
          const Extent extent = at(position, len);
          const Geometry geometry{
              .tile_rows = 16, .column_block = 4, .run_columns = 0, .workers = workers, .part_columns = 1};
          const Plan plan = compile(pattern, extent, geometry);
          ASSERT_EQ(verify(plan.view(), pattern, extent), "")
              << c.name << " causal " << c.options.causal << " " << position;
        }
        for (const int64_t stride : strides(pattern, at(position, len))) ASSERT_GT(stride, 0) << c.name << position;
      }
    }
  }
}

TEST(OneRow, StaysInItsDocument) {
  const std::vector<int64_t> documents = {0, 5, 5, 21, 22, 60};
  for (const bool causal : {false, true}) {
    const Pattern pattern = Pattern::dilated({8, 16, 64}, {1, 2, 4}, {.causal = causal});
    for (int64_t position = 0; position < 60; ++position) {
      const Extent extent = at(position, 60, documents);
      ASSERT_EQ(verify(compile(pattern, extent, {}).view(), pattern, extent), "") << position;
      for (const int64_t stride : strides(pattern, extent)) ASSERT_GT(stride, 0) << position;
    }
  }
}

// Beyond its sequence a query sees nothing, and is written all the same.
TEST(OneRow, SeesNothingBeyondTheLength) {
  const Pattern pattern = Pattern::dilated({8, 16}, {1, 2}, {.causal = true});
  Extent extent = at(20, 32);
  extent.lengths = {20};
  const Plan plan = compile(pattern, extent, {});
  EXPECT_EQ(verify(plan.view(), pattern, extent), "");
  EXPECT_TRUE(plan.runs.empty());
  EXPECT_EQ(count(plan.view(), extent).rows, extent.heads);
}

// Pairs that several groups show are multiplied once.
TEST(OneRow, MultipliesAPairOnce) {
  const Pattern pattern =
      Pattern::dilated({64, 64, 64}, {1, 2, 4}, {.causal = true, .offsets = std::vector<int64_t>(18, 3)});
  const Extent extent = at(63, 64);
  const Plan plan = compile(pattern, extent, {});
  int64_t pairs = 0, weight = 0;
  for_each_pair(plan.view(), plan.classes[0], [&](int64_t, int64_t, int32_t w) {
    ++pairs;
    weight += w;
  });
  EXPECT_EQ(pairs, 64);
  EXPECT_EQ(weight, 64 + 32 + 16);
}

TEST(OneRow, LeavesOtherPatternsToTheTiler) {
  const auto none = [](const Pattern& pattern, int64_t position) {
    for (const int64_t stride : strides(pattern, at(position, 4096)))
      if (stride != 0) return false;
    return true;
  };
  const std::vector<int64_t> zeros(12, 0);
  EXPECT_TRUE(none(Pattern::dilated({600, 600}, {4, 6}, {.offsets = zeros}), 0)) << "neither rate divides the other";
  EXPECT_TRUE(none(Pattern::dilated({600, 2048}, {1, 128}, {.offsets = zeros}), 0)) << "a stride that no level has";
  EXPECT_TRUE(none(Pattern::dilated({600, 600}, {1, 2}, {.padding = Padding::kZeroKeys}), 7)) << "phantom keys";
  EXPECT_TRUE(none(Pattern::block_sparse({BlockPattern(8, LocalWindow{.window = 64})}), 7)) << "blocks";
}

}  // namespace
}  // namespace longstride
