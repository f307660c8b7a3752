// describe(): the words a person needs stand there, with the right numbers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

using testing::HasSubstr;

TEST(Describe, OneTile) {
  const Pattern pattern = Pattern::dilated({16}, {1});
  Extent extent;
  extent.len_q = extent.len_k = 16;
  Geometry geometry;
  geometry.tile_rows = 16;
  const Plan plan = compile(pattern, extent, geometry);
  const std::string text = describe(plan.view(), extent);
  EXPECT_THAT(text, HasSubstr("forward plan: 16 queries on 16 keys, 1 batch row, 1 head on 1 KV head; 1 class"));
  EXPECT_THAT(text, HasSubstr("class 0, 1 (batch row, KV head): 16.0 keys seen and 16.0 computed a query"));
  EXPECT_THAT(text, HasSubstr("in all: 1 tiles, 1 runs, 16.0 keys computed a query, of which 16.0 are seen"));
  EXPECT_THAT(text, HasSubstr(std::to_string(plan.bytes()) + " bytes"));
}

TEST(Describe, SaysWhatTheCallIs) {
  const Pattern pattern = Pattern::dilated({16}, {1});
  Extent extent;
  extent.batch = 3;
  extent.heads = 4;
  extent.kv_heads = 2;
  extent.len_q = 5;
  extent.len_k = 64;
  extent.query_start = 7;
  extent.cu_seqlens = {0, 10, 64};
  std::string text = describe(compile(pattern, extent, {}, Direction::kTransposed).view(), extent);
  EXPECT_THAT(text, HasSubstr("transposed plan: 5 queries on 64 keys, 3 batch rows, 4 heads on 2 KV heads"));
  EXPECT_THAT(text, HasSubstr("query 0 stands at position 7"));
  EXPECT_THAT(text, HasSubstr("2 documents packed"));
  extent.cu_seqlens.clear();
  extent.lengths = {3, 64, 0};
  text = describe(compile(pattern, extent, {}).view(), extent);
  EXPECT_THAT(text, HasSubstr("lengths from 0 to 64"));
}

TEST(Describe, TableHasALineForEveryLevelAndManyClassesAreCut) {
  std::vector<int64_t> table(20);
  for (int64_t j = 0; j < 20; ++j) table[j] = j;
  DilatedOptions options;
  options.offsets = table;
  const Pattern pattern = Pattern::dilated({64}, {20}, options);
  Extent extent;
  extent.heads = extent.kv_heads = 20;
  extent.len_q = extent.len_k = 64;
  const Plan plan = compile(pattern, extent, {});
  ASSERT_EQ(plan.classes.size(), 20u);
  const std::string text = describe(plan.view(), extent);
  EXPECT_THAT(text, HasSubstr("class 7, "));
  EXPECT_THAT(text, testing::Not(HasSubstr("class 8, ")));
  EXPECT_THAT(text, HasSubstr("and 12 classes more"));
  EXPECT_THAT(text, HasSubstr("base"));
}

}  // namespace
}  // namespace longstride
