// Slices of all ranks against the definition, pair by pair: the weights of local and received pairs sum to the whole
// pattern's, phantoms too, and every row named in memory is the position that it stands for.
#include "parallel/slice.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "longstride/pattern/sight.h"
#include "test/parallel/sharded_cases.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using Square = std::vector<std::vector<int64_t>>;

// Adds the pairs of one level; `queries` and `keys` are the positions that lie in memory. "" or what is wrong.
std::string add_pairs(const std::vector<Shown>& level, const std::vector<int64_t>& queries,
                      const std::vector<int64_t>& keys, Square& weights) {
  for (const Shown& one : level) {
    int64_t pairs = 0;
    for (int64_t j = 0; j < one.queries.count; ++j) {
      const int64_t query = one.queries.first + j * one.queries.step;
      if (queries.at(one.query_row + j * one.queries.step) != query) return fmt::format("query {} is elsewhere", query);
      for (int64_t i = 0; i < one.keys.count; ++i) {
        const int64_t key = one.keys.first + i * one.keys.step;
        if (keys.at(one.key_row + i * one.key_step) != key) return fmt::format("key {} is elsewhere", key);
        if (key - query < one.low || key - query > one.high) continue;
        ++weights[query][key];
        ++pairs;
      }
    }
    if (pairs == 0) return "a rectangle without pairs";
  }
  return "";
}

std::string check(const Pattern& pattern, const Extent& e, const test::Held& held) {
  const ShardedCall call(pattern, e, held.shards);
  for (int64_t place = 0; place < e.batch * e.kv_heads; ++place) {
    const int32_t c = call.classes.class_of[place];
    Square weights(e.len_k, std::vector<int64_t>(e.len_k, 0));
    std::vector<int64_t> phantoms(e.len_k, 0);
    for (size_t rank = 0; rank < held.positions.size(); ++rank) {
      const std::vector<int64_t>& own = held.positions[rank];
      const Need its = need(call, static_cast<int64_t>(rank), c);
      std::vector<int64_t> buffer;
      for (const Rows& rows : its.rows) {
        for (int64_t i = 0; i < rows.keys.count; ++i) buffer.push_back(rows.keys.first + i * rows.keys.step);
      }
      const Slice cut = slice(call, static_cast<int64_t>(rank), c, its);
      std::string wrong = add_pairs(cut.local, own, own, weights);
      if (wrong.empty()) wrong = add_pairs(cut.received, own, buffer, weights);
      if (!wrong.empty()) return fmt::format("rank {}: {}", rank, wrong);
      for (const PhantomKeys& some : cut.phantoms) {
        for (int64_t j = 0; j < some.queries.count; ++j) {
          const int64_t query = some.queries.first + j * some.queries.step;
          if (own.at(some.query_row + j * some.queries.step) != query) return "phantoms of another query";
          phantoms[query] += some.count;
        }
      }
    }
    const Sight sight(pattern, e, place / e.kv_heads, place % e.kv_heads);
    for (int64_t query = 0; query < e.len_k; ++query) {
      if (phantoms[query] != sight.phantoms(query)) return fmt::format("query {}: {} phantoms", query, phantoms[query]);
      for (int64_t key = 0; key < e.len_k; ++key) {
        if (weights[query][key] != sight.multiplicity(query, key)) {
          return fmt::format("place {}: query {} and key {} count {}, not {}", place, query, key, weights[query][key],
                             sight.multiplicity(query, key));
        }
      }
    }
  }
  return "";
}

TEST(Slices, SumToTheWholeInEveryCase) { test::for_each_sharded_case(1000, check); }

TEST(Slices, SumToTheWholeOfEveryRuleOfBlocks) { test::for_each_sharded_rule(check); }

// What is received is one rectangle a group and progression, however many ranks it came from.
TEST(Slices, OfABillionTokens) {
  constexpr int64_t kLen = int64_t{1} << 30, kRanks = 1024;
  const ShardedCall call(test::growing(kLen, true), test::square(4, kLen), Shards::even(kLen, kRanks));
  const Need its = need(call, kRanks - 1, 0);
  const Slice cut = slice(call, kRanks - 1, 0, its);
  EXPECT_EQ(512u + 256 + 128 + 64 + 32 + 16 + 8 + 4 + 2 + 1 + 10, cut.local.size());
  // Of the n-th group that ranks share: its own rows, and those that the n - 1 shorter ones brought.
  EXPECT_EQ(55u, cut.received.size());
  int64_t keys = 0;
  for (const Shown& one : cut.received) keys += one.keys.count;
  EXPECT_EQ(18434, keys);
}

}  // namespace
}  // namespace longstride::parallel
