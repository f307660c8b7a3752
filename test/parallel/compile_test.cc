// The plans of all ranks, pair by pair against the definition: pieces and gathered rows together show what the pattern
// shows, as often, in both directions; every row of every plan is written once; and phantoms stand once.
#include "parallel/compile.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "longstride/error.h"
#include "longstride/pattern/sight.h"
#include "longstride/plan/walk.h"
#include "test/parallel/sharded_cases.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

// Of one (batch row, KV head): what has been executed, by query and key.
struct Executed {
  explicit Executed(int64_t len) : weights(len * len, 0), phantoms(len, 0), len_(len) {}
  int64_t& weight(int64_t query, int64_t key) { return weights.at(query * len_ + key); }
  std::vector<int64_t> weights;
  std::vector<int64_t> phantoms;

 private:
  int64_t len_;
};

// Adds the pairs of a plan whose queries and keys stand for those positions; -1: for none. "" or what is wrong.
std::string add_plan(const Plan& plan, int32_t class_id, const std::vector<int64_t>& queries,
                     const std::vector<int64_t>& keys, Executed& to) {
  const PlanView view = plan.view();
  const bool forward = plan.direction == Direction::kForward;
  const std::vector<int64_t>& rows = forward ? queries : keys;
  const std::vector<int64_t>& columns = forward ? keys : queries;
  std::vector<int> written(rows.size(), 0);
  std::string wrong;
  for_each_row(view, view.classes[class_id], [&](const PlacedRow& at) {
    if (at.position < 0 || at.position >= static_cast<int64_t>(rows.size())) {
      wrong = fmt::format("row {} of {}", at.position, rows.size());
      return;
    }
    if (!at.placed.level->partial) ++written[at.position];
    const int64_t row = rows[at.position];
    if (const int64_t count = phantom_count(view, at); count > 0) to.phantoms.at(row) += count;
    for_each_pair(view, at, [&](int64_t position, int32_t weight) {
      const int64_t column = columns.at(position);
      if (row < 0 || column < 0) {
        wrong = fmt::format("row {} or column {} stands for nothing", at.position, position);
      } else {
        to.weight(forward ? row : column, forward ? column : row) += weight;
      }
    });
  });
  for (size_t row = 0; row < rows.size(); ++row) {
    if (written[row] != 1) wrong = fmt::format("row {} is written {} times", row, written[row]);
  }
  return wrong;
}

// Which positions the rows of a gathered memory stand for.
void stand_for(const std::vector<Gathering>& all, const std::vector<int64_t>& from, std::vector<int64_t>& to) {
  for (const Gathering& g : all) {
    for (int64_t i = 0; i < g.count; ++i) {
      ASSERT_EQ(-1, to.at(g.to + i)) << "two rows in one place";
      to[g.to + i] = from.at(g.from + i * g.step);
    }
  }
}

std::string add_rank(const ShardedCall& call, int64_t rank, const std::vector<int64_t>& own, int32_t class_id,
                     const Geometry& geometry, Direction direction, Executed& to) {
  for (const Piece& piece : joined_pieces(call.shards, rank)) {
    const std::vector<int64_t> rows(own.begin() + piece.row, own.begin() + piece.row + piece.end - piece.begin);
    const std::string wrong = add_plan(compile_piece(call, piece, geometry, direction), class_id, rows, rows, to);
    if (!wrong.empty()) return "piece: " + wrong;
  }
  std::vector<Need> needs;
  for (int64_t c = 0; c < call.class_count(); ++c) needs.push_back(need(call, rank, c));
  const Gathered gathered = gather(call, rank, needs);
  std::vector<int64_t> queries(gathered.queries, -1), keys(gathered.keys, -1);
  int64_t row = 0;
  for (const Rows& rows : needs[class_id].rows) {
    for (int64_t i = 0; i < rows.keys.count; ++i) keys.at(row++) = rows.keys.first + i * rows.keys.step;
  }
  const GatheredClass& its = gathered.classes[class_id];
  stand_for(its.queries, own, queries);
  stand_for(its.own, own, keys);
  stand_for(its.received, keys, keys);
  const std::string wrong =
      add_plan(compile_gathered(call, gathered, geometry, direction), class_id, queries, keys, to);
  return wrong.empty() ? "" : "gathered: " + wrong;
}

std::string check(const Pattern& pattern, const Extent& e, const test::Held& held, const Geometry& geometry) {
  const ShardedCall call(pattern, e, held.shards);
  for (int64_t place = 0; place < e.batch * e.kv_heads; ++place) {
    const Sight sight(pattern, e, place / e.kv_heads, place % e.kv_heads);
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      Executed got(e.len_k);
      for (size_t rank = 0; rank < held.positions.size(); ++rank) {
        const std::string wrong = add_rank(call, static_cast<int64_t>(rank), held.positions[rank],
                                           call.classes.class_of[place], geometry, direction, got);
        if (!wrong.empty()) return fmt::format("rank {}: {}", rank, wrong);
      }
      for (int64_t query = 0; query < e.len_k; ++query) {
        const int64_t phantoms = direction == Direction::kForward ? sight.phantoms(query) : 0;
        if (got.phantoms[query] != phantoms) return fmt::format("query {}: {} phantoms", query, got.phantoms[query]);
        for (int64_t key = 0; key < e.len_k; ++key) {
          if (got.weight(query, key) == sight.multiplicity(query, key)) continue;
          return fmt::format("{}: place {}: query {} and key {} count {}, not {}",
                             direction == Direction::kForward ? "forward" : "transposed", place, query, key,
                             got.weight(query, key), sight.multiplicity(query, key));
        }
      }
    }
  }
  return "";
}

Geometry small_tiles() {
  Geometry geometry;
  geometry.tile_rows = 8;
  geometry.column_block = 4;
  geometry.row_quantum = 4;
  geometry.merge_columns = 1;
  return geometry;
}

TEST(RankPlans, AreTheWholeInEveryCase) {
  int64_t gathered = 0;
  test::for_each_sharded_case(600, [&](const Pattern& pattern, const Extent& e, const test::Held& held) {
    const ShardedCall call(pattern, e, held.shards);
    std::vector<Need> needs;
    for (int64_t c = 0; c < call.class_count(); ++c) needs.push_back(need(call, 0, c));
    gathered += !gather(call, 0, needs).empty();
    return check(pattern, e, held, small_tiles());
  });
  if (std::getenv("LONGSTRIDE_CASE") == nullptr) {
    EXPECT_GT(gathered, test::share(200));
  }
}

TEST(RankPlans, AreTheWholeOfEveryRuleOfBlocks) {
  test::for_each_sharded_rule([](const Pattern& pattern, const Extent& e, const test::Held& held) {
    return check(pattern, e, held, small_tiles());
  });
}

// Chunks that continue one another are one piece: a rank alone gathers nothing, in either layout.
TEST(RankPlans, OneRankGathersNothing) {
  const ShardedCall call(Pattern::dilated({16, 64}, {1, 2}, {.causal = true}), test::square(2, 100),
                         Shards::zigzag(100, 1));
  const Gathered all = gather(call, 0, {need(call, 0, 0), need(call, 0, 1)});
  EXPECT_TRUE(all.empty());
  EXPECT_EQ(0, all.keys);
}

// A billion tokens on 1,024 ranks: the last rank's rows beyond its shard are a few thousand, planned by arithmetic.
TEST(RankPlans, OfABillionTokens) {
  constexpr int64_t kLen = int64_t{1} << 30, kRanks = 1024;
  const ShardedCall call(test::growing(kLen, true), test::square(1, kLen), Shards::even(kLen, kRanks));
  const Gathered last = gather(call, kRanks - 1, {need(call, kRanks - 1, 0)});
  // Of the n-th group that ranks share 2^(11 - n) queries; what two groups see, the rarer one has again, side by side.
  EXPECT_EQ(2046, last.queries);
  EXPECT_EQ(10240 + (18434 - 10240), last.keys);
  const Plan plan = compile_gathered(call, last, {}, Direction::kForward);
  EXPECT_LE(plan.tiles.size(), 20u);
  EXPECT_LE(plan.runs.size(), 80u);
}

}  // namespace
}  // namespace longstride::parallel
