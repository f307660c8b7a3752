// A density is held against the length of a call or it is not; query_start and the batch never decide.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "longstride/error.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride {
namespace {

constexpr int64_t kBlock = 16;

Extent extent_of(int64_t len, int64_t query_start) {
  Extent extent;
  extent.heads = extent.kv_heads = 2;
  extent.len_k = len;
  extent.query_start = query_start;
  extent.len_q = len - query_start;
  return extent;
}

// "" for a plan that verify() finds right; what it finds, or what compile() refuses.
std::string verdict(const Pattern& pattern, const Extent& extent) {
  try {
    const Plan plan = compile(pattern, extent, Geometry{});
    return verify(plan.view(), pattern, extent);
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Density, OfCausalRandomBlocksTakesEveryLengthAndStart) {
  for (const double density : {0.01, 0.2, 0.5}) {
    const Pattern pattern = Pattern::block_sparse({BlockPattern(kBlock, RandomBlocks{density, 7})}, true);
    for (int64_t len = 1; len <= 200; ++len) {
      for (const int64_t start : {int64_t{0}, int64_t{1}, len / 2, len - 1}) {
        if (start >= len) continue;
        EXPECT_EQ(verdict(pattern, extent_of(len, start)), "") << density << " " << len << " " << start;
      }
    }
  }
}

TEST(Density, IsRefusedForALengthWhateverQueryStartIs) {
  const BlockRule rules[] = {LocalWindow{.density = 0.2}, DilatedSparse{.rates = {1, 2}, .density = 0.2},
                             RandomBlocks{0.2, 7}};
  for (const BlockRule& rule : rules) {
    for (const bool causal : {false, true}) {
      const Pattern pattern = Pattern::block_sparse({BlockPattern(kBlock, rule)}, causal);
      int refused = 0;
      for (int64_t len = 2; len <= 200; len += 3) {
        const std::string whole = verdict(pattern, extent_of(len, 0));
        refused += !whole.empty();
        for (const int64_t start : {int64_t{1}, len / 2, len - 1}) {
          EXPECT_EQ(verdict(pattern, extent_of(len, start)), whole) << pattern.blocks()[0].name() << " " << len;
        }
      }
      EXPECT_EQ(refused > 0, !causal || !std::holds_alternative<RandomBlocks>(rule)) << pattern.blocks()[0].name();
    }
  }
}

}  // namespace
}  // namespace longstride
