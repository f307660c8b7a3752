// Retention against Sight: without the keys that it calls outlived, later queries see what they saw.
#include "longstride/pattern/retention.h"

#include <gtest/gtest.h>

#include "longstride/pattern/json.h"
#include "longstride/pattern/sight.h"
#include "test/pattern/every_rule.h"

namespace longstride {
namespace {

constexpr int64_t kLen = 60;
constexpr int64_t kHeads = 3;

Sight sight(const Pattern& pattern, int64_t len, int64_t head) {
  return {pattern, {.heads = kHeads, .kv_heads = kHeads, .len_q = len, .len_k = len}, 0, head};
}

// For every query: what is outlived is unseen by it and all later ones, and the shortened sequence is the same to them.
// Returns how many keys are outlived by the last one.
int64_t expect_the_same_without(const Pattern& pattern) {
  SCOPED_TRACE(to_json(pattern));
  const std::optional<Retention> retention = Retention::of(pattern);
  if (!retention) return 0;
  int64_t dropped = 0;
  for (int64_t first = 0; first < kLen; ++first) {
    const int64_t before = dropped, sinks = retention->sinks();
    dropped = retention->outlived(first);
    EXPECT_GE(dropped, before);
    EXPECT_LE(dropped, std::max<int64_t>(0, first - sinks));
    EXPECT_LE(first + 1 - dropped, retention->most_kept());
    if (dropped == before) continue;
    for (int64_t head = 0; head < kHeads; ++head) {
      const Sight whole = sight(pattern, kLen, head), left = sight(pattern, kLen - dropped, head);
      for (int64_t q = first; q < kLen; ++q) {
        EXPECT_EQ(whole.phantoms(q), left.phantoms(q - dropped));
        for (int64_t k = 0; k < kLen; ++k) {
          const bool gone = k >= sinks && k < sinks + dropped;
          const int64_t m = gone ? 0 : left.multiplicity(q - dropped, k < sinks ? k : k - dropped);
          EXPECT_EQ(whole.multiplicity(q, k), m) << head << ": " << q << ", " << k << " without " << dropped;
        }
      }
    }
    if (testing::Test::HasFailure()) return dropped;
  }
  return dropped;
}

TEST(Retention, WhatIsLeftShowsTheSameOfEveryRule) {
  for (const bool causal : {true, false}) {
    for (const BlockPattern& one : test::values_of_every_rule()) {
      expect_the_same_without(Pattern::block_sparse({one}, causal));
    }
  }
}

// With how many of 60 keys the last query has outlived.
TEST(Retention, UnionsAndGroups) {
  const BlockPattern window(1, SlidingWindow{.left = 6, .right = 0}), sinks(1, SlidingWindow{0, 0, 5});
  const BlockPattern wide(1, SlidingWindow{.left = 11, .right = 2, .sink_tokens = 2}), local(4, LocalWindow{9});
  const BlockPattern global(4, GlobalLocal{.window = 8, .global_tokens = 3});
  const auto blocks = [](const std::vector<BlockPattern>& all) { return Pattern::block_sparse(all, true); };
  const auto groups = [](const std::vector<int64_t>& lengths, DilatedOptions options = {.causal = true}) {
    return Pattern::dilated(lengths, std::vector<int64_t>(lengths.size(), 2), options);
  };
  EXPECT_EQ(expect_the_same_without(blocks({window})), 59 - 6);
  EXPECT_EQ(expect_the_same_without(blocks({window, sinks})), 59 - 6 - 5);
  EXPECT_EQ(expect_the_same_without(blocks({window, sinks, wide})), 59 - 11 - 5);
  EXPECT_EQ(expect_the_same_without(blocks({wide}).with_causal(false)), 59 - 11 - 2);
  EXPECT_EQ(expect_the_same_without(blocks({local})), 56 - 4);
  EXPECT_EQ(expect_the_same_without(blocks({global})), 56 - 4 - 4);
  EXPECT_EQ(expect_the_same_without(blocks({global, window, sinks})), 44);  // 47 behind 5 sinks, by fours
  EXPECT_EQ(expect_the_same_without(groups({7})), 56);
  EXPECT_EQ(expect_the_same_without(groups({7, 14, 4})), 56);  // 59 mod 28
  EXPECT_EQ(expect_the_same_without(groups({6, 14})), 42);
  EXPECT_EQ(expect_the_same_without(groups({6}).with_blocks({wide})), 42);
  EXPECT_EQ(expect_the_same_without(groups({8, 4}, {.mixing = Mixing::kHeadPartition})), 56);
  EXPECT_EQ(expect_the_same_without(groups({8}, {.causal = true, .padding = Padding::kZeroKeys})), 56);
  EXPECT_EQ(expect_the_same_without(groups({64})), 0);
}

TEST(Retention, ThereIsNoneWithoutAnEnd) {
  const auto none = [](const BlockPattern& block, bool causal = true) {
    return !Retention::of(Pattern::block_sparse({block}, causal));
  };
  EXPECT_TRUE(none({1, SlidingWindow{.right = 0}}));
  EXPECT_TRUE(none({4, LocalWindow{.density = 0.5}}));
  EXPECT_TRUE(none({4, DilatedSparse{.density = 0.5}}));
  EXPECT_TRUE(none({4, DilatedSparse{.rates = {int64_t{1} << 40}, .reach = int64_t{1} << 40}}));
  EXPECT_FALSE(none({4, DilatedSparse{.rates = {1, 3}, .reach = 2}}));
  for (const BlockRule& rule : std::vector<BlockRule>{Strided{}, Axial{.grid_columns = 3}, RandomBlocks{0.5, 1},
                                                      Hierarchical{{{4, 8}}}, BlockList{}}) {
    EXPECT_TRUE(none({4, rule}));
  }
  EXPECT_FALSE(Retention::of(Pattern()));
  EXPECT_FALSE(Retention::of(Pattern::dilated({8}, {1}, {.padding = Padding::kZeroKeys})));
  // Numbers too large to be of use do not wrap.
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  const auto huge = Retention::of(Pattern::dilated({kHuge, kHuge - 1}, {1, 1}));
  EXPECT_EQ(huge->most_kept(), kHuge);
  EXPECT_EQ(huge->outlived(kHuge), 0);
}

}  // namespace
}  // namespace longstride
