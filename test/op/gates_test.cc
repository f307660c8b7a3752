// The ranges that explicit blocks become, pair by pair: those of the block that the call has and the pattern shows.
#include "op/gates.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/gates.h"

namespace longstride::op {
namespace {

TEST(GateIndex, RangesHoldThePairsOfTheirBlocks) {
  const std::vector<Block> blocks = {{-1, -1, 3, 1}, {1, 0, 0, 2},  {0, -1, 2, 2},  {-1, 1, 3, 0}, {0, 1, 2, 2},
                                     {-1, -1, 1, 0}, {-1, 0, 1, 1}, {-1, -1, 3, 3}, {1, -1, 2, 3}};
  constexpr int64_t kSize = 4;
  for (const bool causal : {false, true}) {
    for (const Extent& e : {Extent{.batch = 2, .kv_heads = 2, .len_q = 15, .len_k = 15},
                            Extent{.batch = 2, .kv_heads = 2, .len_q = 7, .len_k = 15, .query_start = 6},
                            Extent{.batch = 2, .kv_heads = 2, .len_q = 15, .len_k = 15, .lengths = {10, 5}}}) {
      const GateIndex index(blocks, kSize, causal, e);
      const engine::Gates gates = index.view();
      EXPECT_EQ(gates.causal, causal);
      const auto seen = [&](int64_t b, int64_t query, int64_t key) {
        const int64_t len = e.lengths.empty() ? e.len_k : e.lengths[b];
        return query >= e.query_start && query < std::min(e.query_start + e.len_q, len) && key < len &&
               (!causal || key <= query);
      };
      size_t taken = 0;
      for (size_t r = 0; r < blocks.size(); ++r) {
        ASSERT_EQ(index.entries_of_row()[r], (blocks[r].batch_row < 0 ? 2 : 1) * (blocks[r].kv_head < 0 ? 2 : 1));
        for (int64_t n = 0; n < index.entries_of_row()[r]; ++n) {
          const int64_t entry = index.entry_of_rows()[taken++];
          int64_t place = 0;
          while (gates.begin[place + 1] <= entry) ++place;
          EXPECT_TRUE(blocks[r].batch_row < 0 || blocks[r].batch_row == place / 2);
          EXPECT_TRUE(blocks[r].kv_head < 0 || blocks[r].kv_head == place % 2);
          std::set<std::pair<int64_t, int64_t>> expected, got;
          for (int64_t query = blocks[r].query_block * kSize; query < (blocks[r].query_block + 1) * kSize; ++query) {
            for (int64_t key = blocks[r].key_block * kSize; key < (blocks[r].key_block + 1) * kSize; ++key) {
              if (seen(place / 2, query, key)) expected.emplace(query, key);
            }
          }
          const engine::GateRange& range = gates.ranges[entry];
          for (int64_t query = range.query_begin; query < range.query_end; ++query) {
            for (int64_t key = range.key_begin; key < range.key_end; ++key) {
              EXPECT_TRUE(query >= e.query_start && query < e.query_start + e.len_q && key < e.len_k);
              if (!causal || key <= query) got.emplace(query, key);
            }
          }
          EXPECT_EQ(got, expected) << r << " at " << place;
        }
      }
      EXPECT_EQ(index.entries(), gates.begin[4]);
      EXPECT_EQ(index.entries(), 21);  // of 22 named ones, one twice
      for (int64_t place = 0; place < 4; ++place) {
        for (int64_t query = 0; query < e.len_k; ++query) {
          for (int64_t key = 0; key < e.len_k; ++key) {
            std::vector<int64_t> holding, found;
            for (int64_t n = gates.begin[place]; n < gates.begin[place + 1]; ++n) {
              const engine::GateRange& r = gates.ranges[n];
              if (query >= r.query_begin && query < r.query_end && key >= r.key_begin && key < r.key_end)
                holding.push_back(n);
            }
            engine::for_each_gate(gates, place, key, key + 1, query, query + 1,
                                  [&](int64_t gate, auto...) { found.push_back(gate); });
            EXPECT_EQ(found, holding) << place << ": " << query << ", " << key;
          }
        }
      }
    }
  }
}

// KV heads 1 and 2 of four, by the numbers of all.
TEST(GateIndex, OfSomeHeadsIsThatOfAllWithoutTheOthers) {
  const std::vector<Block> blocks = {{-1, -1, 3, 1}, {1, 0, 0, 2},  {0, 1, 2, 2},
                                     {-1, 2, 3, 0},  {-1, 3, 1, 0}, {0, 1, 2, 2}};
  const GateIndex all(blocks, 4, false, {.batch = 2, .kv_heads = 4, .len_q = 15, .len_k = 15});
  const GateIndex some(blocks, 4, false, {.batch = 2, .kv_heads = 2, .len_q = 15, .len_k = 15}, 1);
  EXPECT_EQ(some.entries_of_row(), (std::vector<int64_t>{4, 0, 1, 2, 0, 1}));
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t j = 0; j < 2; ++j) {
      const int64_t place = 2 * b + j, of_all = 4 * b + 1 + j;
      const engine::Gates own = some.view(), whole = all.view();
      ASSERT_EQ(own.begin[place + 1] - own.begin[place], whole.begin[of_all + 1] - whole.begin[of_all]);
      for (int64_t n = 0; n < own.begin[place + 1] - own.begin[place]; ++n) {
        const engine::GateRange &got = own.ranges[own.begin[place] + n],
                                &wanted = whole.ranges[whole.begin[of_all] + n];
        EXPECT_EQ(std::pair(got.query_begin, got.key_begin), std::pair(wanted.query_begin, wanted.key_begin));
        EXPECT_EQ(std::pair(got.query_end, got.key_end), std::pair(wanted.query_end, wanted.key_end));
      }
    }
  }
  const GateIndex none(blocks, 4, false, {.batch = 1, .kv_heads = 1, .len_q = 15, .len_k = 15}, 4);
  EXPECT_EQ(none.entries_of_row(), (std::vector<int64_t>{1, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace longstride::op
