// Lists of every rank against the definition of the pattern, pair by pair: what is received is what is seen and not
// held, once, from whom holds it; both ends say the same; and every offset leads where it says.
#include "parallel/lists.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>

#include "longstride/pattern/sight.h"
#include "test/parallel/sharded_cases.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using Keys = std::set<int64_t>;

// Of every place and rank: keys of other ranks that its queries see, by the definition.
std::vector<std::vector<Keys>> needed(const Pattern& pattern, const Extent& e, const test::Held& held) {
  std::vector<std::vector<Keys>> all;
  for (int64_t b = 0; b < e.batch; ++b) {
    for (int64_t j = 0; j < e.kv_heads; ++j) {
      const Sight sight(pattern, e, b, j);
      std::vector<Keys>& of_ranks = all.emplace_back(held.positions.size());
      for (size_t rank = 0; rank < held.positions.size(); ++rank) {
        const Keys own(held.positions[rank].begin(), held.positions[rank].end());
        for (const int64_t query : own) {
          for (int64_t key = 0; key < e.len_k; ++key) {
            if (!own.contains(key) && sight.multiplicity(query, key) > 0) of_ranks[rank].insert(key);
          }
        }
      }
    }
  }
  return all;
}

// Calls visit(place, part, i, key) for every row of a message, in no order.
template <class Visit>
void for_each_row(const ShardedCall& call, const Message& m, const Visit& visit) {
  for (size_t place = 0; place < call.classes.class_of.size(); ++place) {
    const int32_t c = call.classes.class_of[place];
    for (int64_t p = m.part_begin[c]; p < m.part_begin[c + 1]; ++p) {
      const Part& part = m.parts[p];
      for (int64_t i = 0; i < part.keys.count; ++i) visit(place, part, i, part.keys.first + i * part.keys.step);
    }
  }
}

// "" or what is wrong with what `rank` receives.
std::string check_received(const ShardedCall& call, const test::Held& held, const RankLists& its,
                           const std::vector<std::vector<Keys>>& expected) {
  const size_t places = call.classes.class_of.size();
  std::vector<Keys> got(places);
  std::vector<int64_t> buffer(its.rows_received(), -1);
  std::string wrong;
  for (const Message& m : its.receives) {
    std::vector<int64_t> packed(m.rows(), -1);
    for_each_row(call, m, [&](size_t place, const Part& part, int64_t i, int64_t key) {
      const std::vector<int64_t>& theirs = held.positions[m.from];
      const int64_t row = part.local + i * part.keys.step;
      if (row < 0 || row >= static_cast<int64_t>(theirs.size()) || theirs[row] != key) {
        wrong = fmt::format("row {} of rank {} is not key {}", row, m.from, key);
      }
      if (!got[place].insert(key).second) wrong = fmt::format("key {} twice", key);
      int64_t& slot = packed.at(m.place_begin[place] + part.packed + i);
      int64_t& seat = buffer.at(its.received_begin[place] + part.received + i);
      if (slot >= 0 || seat >= 0) wrong = "two keys in one row";
      slot = seat = key;
    });
    if (std::count(packed.begin(), packed.end(), -1) > 0) wrong = "a hole in a message";
    if (m.rows() == 0) wrong = "an empty message";
  }
  if (std::count(buffer.begin(), buffer.end(), -1) > 0) wrong = "a hole in the received keys";
  for (size_t place = 0; place < places; ++place) {
    if (got[place] != expected[place][its.rank]) {
      wrong = fmt::format("place {} receives {} keys, needs {}", place, got[place].size(),
                          expected[place][its.rank].size());
    }
    int64_t row = its.received_begin[place];
    for (const Rows& rows : its.needs[call.classes.class_of[place]].rows) {
      for (int64_t i = 0; i < rows.keys.count; ++i) {
        if (buffer.at(row++) != rows.keys.first + i * rows.keys.step) wrong = "keys lie in another order than needed";
      }
    }
  }
  return wrong;
}

// But for where its rows lie at the receiver.
bool same_rows(const Message& m, const Message& of_step) {
  Message its = of_step;
  if (its.parts.size() != m.parts.size()) return false;
  for (size_t n = 0; n < its.parts.size(); ++n) its.parts[n].received = m.parts[n].received;
  return its == m;
}

// The messages of all steps are those of `all`, and their rows lie one after another where they are received.
std::string check_steps(const ShardedCall& call, const std::vector<RankLists>& all) {
  const int64_t ranks = call.shards.ranks();
  const std::vector<int64_t> distances = steps(call);
  std::set<int64_t> expected;
  for (const RankLists& its : all) {
    for (const Message& m : its.receives) expected.insert((m.to + ranks - m.from) % ranks);
    for (const bool sends : {true, false}) {
      std::vector<Message> found;
      for (const int64_t step : distances) {
        const RankLists of_step = lists_of_step(call, its.rank, step);
        const std::vector<Message>& messages = sends ? of_step.sends : of_step.receives;
        if (messages.size() > 1) return "a step of more than one message";
        found.insert(found.end(), messages.begin(), messages.end());
        if (!sends && of_step.rows_received() != (messages.empty() ? 0 : messages[0].rows())) return "rows of others";
      }
      std::ranges::sort(found, {}, [&](const Message& m) { return sends ? m.to : m.from; });
      if (!std::ranges::equal(sends ? its.sends : its.receives, found, same_rows)) return "other messages in steps";
    }
  }
  if (!std::ranges::equal(expected, distances)) return "other steps";
  return lists_of_step(call, 0, 0).rows_received() == 0 ? "" : "a step of 0 rows has some";
}

std::string check(const Pattern& pattern, const Extent& e, const test::Held& held) {
  const ShardedCall call(pattern, e, held.shards);
  const auto expected = needed(pattern, e, held);
  const int64_t ranks = held.shards.ranks();
  std::map<std::pair<int64_t, int64_t>, Message> sent;
  std::vector<RankLists> all;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    all.push_back(lists(call, rank));
    for (const Message& m : all.back().sends) {
      if (m.from != rank || m.to == rank) return "a message of another";
      if (m != message(call, rank, m.to)) return "message() differs from lists()";
      sent.emplace(std::pair(rank, m.to), m);
    }
  }
  for (const RankLists& its : all) {
    const std::string wrong = check_received(call, held, its, expected);
    if (!wrong.empty()) return fmt::format("rank {}: {}", its.rank, wrong);
    for (const Message& m : its.receives) {
      const auto found = sent.find({m.from, its.rank});
      if (found == sent.end() || found->second != m) return fmt::format("{} and {} differ", m.from, m.to);
      sent.erase(found);
    }
  }
  if (!sent.empty()) return "a message that nobody receives";
  return check_steps(call, all);
}

TEST(Lists, AreWhatTheDefinitionSaysOfEveryCase) {
  int64_t travelled = 0;
  test::for_each_sharded_case(1500, [&](const Pattern& pattern, const Extent& e, const test::Held& held) {
    travelled += lists(ShardedCall(pattern, e, held.shards), 0).rows_received() > 0;
    return check(pattern, e, held);
  });
  if (std::getenv("LONGSTRIDE_CASE") == nullptr) {
    EXPECT_GT(travelled, test::share(500));
  }
}

TEST(Lists, AreWhatEveryRuleOfBlocksSays) { test::for_each_sharded_rule(check); }

TEST(Lists, EveryNumberOfRanks) {
  const Pattern pattern = Pattern::dilated({8, 16, 32, 64}, {1, 2, 4, 8}, {.causal = true});
  const Extent e = {.heads = 6, .kv_heads = 3, .len_q = 64, .len_k = 64};
  for (int64_t ranks = 1; ranks <= 16; ++ranks) {
    EXPECT_EQ("", check(pattern, e, test::held_even(64, ranks))) << ranks;
    EXPECT_EQ("", check(pattern, e, test::held_zigzag(64, ranks))) << ranks;
  }
  const Extent short_one = {.heads = 6, .kv_heads = 3, .len_q = 5, .len_k = 5};
  EXPECT_EQ("", check(pattern, short_one, test::held_even(5, 16)));
  EXPECT_EQ("", check(pattern, short_one, test::held_zigzag(5, 16)));
}

TEST(Lists, NothingTravelsWhereSegmentsAreLocal) {
  const Pattern pattern = Pattern::dilated({16, 32}, {1, 2});
  const Extent e = {.heads = 2, .kv_heads = 2, .len_q = 128, .len_k = 128};
  const ShardedCall call(pattern, e, Shards::even(128, 4));
  for (int64_t rank = 0; rank < 4; ++rank) {
    const RankLists its = lists(call, rank);
    EXPECT_TRUE(its.receives.empty());
    EXPECT_TRUE(its.sends.empty());
    EXPECT_EQ(0, its.rows_received());
  }
}

// A billion tokens on 1,024 ranks: as many progressions as there are groups and neighbours, not as there are rows.
TEST(Lists, PlanABillionTokensByArithmetic) {
  constexpr int64_t kLen = int64_t{1} << 30, kRanks = 1024;
  const Extent e = test::square(4, kLen);
  const ShardedCall call(test::growing(kLen, true), e, Shards::even(kLen, kRanks));
  const RankLists last = lists(call, kRanks - 1);
  EXPECT_EQ(4 * 10240, last.rows_received());
  EXPECT_EQ(1023u, last.receives.size());
  EXPECT_EQ(0, rows_in(last.sends));  // no later queries
  size_t parts = 0;
  for (const Message& m : last.receives) parts += m.parts.size();
  EXPECT_LE(parts, 4u * 1023 * 10);
  EXPECT_LE(last.needs[0].rows.size(), 10u);

  const ShardedCall window(
      Pattern::block_sparse({BlockPattern(1, SlidingWindow{.left = 4096, .right = 0, .sink_tokens = 4})}, true), e,
      Shards::even(kLen, kRanks));
  const RankLists middle = lists(window, 500);
  EXPECT_EQ(4 * (4096 + 4), middle.rows_received());
  ASSERT_EQ(2u, middle.receives.size());  // the sinks' rank and the one before
  EXPECT_EQ(499, middle.receives[1].from);
  ASSERT_EQ(1u, middle.sends.size());
  EXPECT_EQ(501, middle.sends[0].to);
}

}  // namespace
}  // namespace longstride::parallel
