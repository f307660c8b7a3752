// What ranks compute and receive, counted by arithmetic, against counting pair by pair.
#include "parallel/survey.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "longstride/pattern/sight.h"
#include "parallel/lists.h"
#include "test/parallel/sharded_cases.h"

namespace longstride::parallel {
namespace {

// Of one source on one rank, pair by pair.
struct Counted {
  double queries = 0;
  double pairs = 0;
  int64_t alone = 0;
};

std::vector<Counted> counted(const Pattern& pattern, const Extent& e, const std::vector<int64_t>& positions) {
  const auto groups = static_cast<int64_t>(pattern.groups().size());
  std::vector<Counted> all(groups + 1);
  const std::set<int64_t> own(positions.begin(), positions.end());
  for (int64_t b = 0; b < e.batch; ++b) {
    for (int64_t j = 0; j < e.kv_heads; ++j) {
      const Sight sight(pattern, e, b, j);
      for (int64_t s = 0; s <= groups; ++s) {
        std::set<int64_t> others;
        for (const int64_t query : positions) {
          std::vector<Progression> keys;
          if (s == groups) {
            sight.block_keys(query, keys);
          } else if (const auto segment = sight.segment(s, query); segment.sampled.contains(query)) {
            keys.push_back(segment.sampled.within(segment.begin, pattern.causal() ? query : segment.end));
          }
          all[s].queries += !keys.empty();
          for (const Progression& p : keys) {
            all[s].pairs += static_cast<double>(p.count);
            for (int64_t i = 0; i < p.count; ++i) {
              if (!own.contains(p.first + i * p.step)) others.insert(p.first + i * p.step);
            }
          }
        }
        all[s].alone += static_cast<int64_t>(others.size());
      }
    }
  }
  return all;
}

std::string check(const Pattern& pattern, const Extent& e, const test::Held& held) {
  const ShardedCall call(pattern, e, held.shards);
  const Survey got = survey(call);
  for (size_t rank = 0; rank < held.positions.size(); ++rank) {
    const RankLoad& load = got.ranks[rank];
    const std::vector<Counted> expected = counted(pattern, e, held.positions[rank]);
    int64_t added = 0;
    for (size_t s = 0; s < expected.size(); ++s) {
      const SourceLoad& its = load.sources[s];
      added += its.added;
      if (its.queries != expected[s].queries || its.pairs != expected[s].pairs || its.alone != expected[s].alone) {
        return fmt::format("rank {} source {}: {} queries {} pairs {} alone, counted {} {} {}", rank, s, its.queries,
                           its.pairs, its.alone, expected[s].queries, expected[s].pairs, expected[s].alone);
      }
      if (its.added > its.alone) return "a source adds more than it needs";
      if ((its.alone > 0) != (its.ranks > 1)) return fmt::format("{} rows from {} ranks", its.alone, its.ranks);
    }
    const RankLists its = lists(call, static_cast<int64_t>(rank));
    if (added != its.rows_received() || load.rows != added) return "rows that travel differ from the lists";
    const auto peers = static_cast<int64_t>(its.receives.size());
    if (load.peers < peers || (peers == 0) != (load.peers == 0)) {
      return fmt::format("{} peers, lists name {}", load.peers, peers);
    }
  }
  return "";
}

TEST(Survey, CountsWhatTheDefinitionSays) {
  test::for_each_sharded_case(1000, check);
  test::for_each_sharded_rule(check);
}

// Causal and zigzag, segments that chunks divide: every rank has as many pairs of every group.
TEST(Survey, ZigzagIsBalanced) {
  const Pattern pattern =
      Pattern::dilated({64, 256, 1024}, {1, 2, 4}, {.causal = true, .head_offset = HeadOffset::kGroup});
  const Extent e = {.heads = 2, .kv_heads = 2, .len_q = 1024, .len_k = 1024};
  const Survey zigzag = survey({pattern, e, Shards::zigzag(1024, 8)});
  const Survey even = survey({pattern, e, Shards::even(1024, 8)});
  for (size_t s = 0; s < 3; ++s) {
    for (size_t rank = 1; rank < 8; ++rank) {
      EXPECT_EQ(zigzag.ranks[0].sources[s].pairs, zigzag.ranks[rank].sources[s].pairs) << s << " " << rank;
    }
  }
  // 32 samples a shard: the i-th of a segment sees i.
  EXPECT_EQ(2 * 32 * 33 / 2, even.ranks[0].sources[2].pairs);
  EXPECT_EQ(2 * (256 * 257 - 224 * 225) / 2, even.ranks[7].sources[2].pairs);
}

}  // namespace
}  // namespace longstride::parallel
