// Exchange plans: the rows of LongNet's configurations as the formulas have them, when a plan can be had, and which.
#include "parallel/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "longstride/error.h"
#include "parallel/cost.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kHeads = 16;
constexpr RowShape kShape{.dim = 64};

Pattern fixed(bool causal) { return Pattern::dilated(test::kFixed, test::kDoubling, {.causal = causal}); }

// Rows per head that the worst rank receives in forward: did every group bring its own, and of the plans as they are.
struct RowsPerHead {
  int64_t groups_alone = 0;
  int64_t direct = 0;
  int64_t ladder = 0;
  bool operator==(const RowsPerHead&) const = default;
};
std::ostream& operator<<(std::ostream& to, const RowsPerHead& r) {
  return to << "{" << r.groups_alone << ", " << r.direct << ", " << r.ladder << "}";
}

RowsPerHead rows_per_head(const Pattern& pattern, int64_t len, int64_t ranks) {
  const ShardedCall call(pattern, test::square(kHeads, len), Shards::even(len, ranks));
  const Survey all = survey(call);
  RowsPerHead rows;
  for (const RankLoad& load : all.ranks) {
    int64_t alone = 0;
    for (const SourceLoad& its : load.sources) alone += its.alone;
    rows.groups_alone = std::max(rows.groups_alone, alone / kHeads);
  }
  const auto of = [&](const ExchangePlan& plan) {
    const std::string because = infeasible_because(plan, call, all);
    EXPECT_EQ("", because) << name(plan);
    const Volume v = worst_volume(plan, call, all, kShape);
    return static_cast<double>(v.forward_bytes) / static_cast<double>(kHeads * kShape.forward_bytes());
  };
  rows.direct = static_cast<int64_t>(of({Exchange::kDirect}));
  if (rows.direct == 0) {
    EXPECT_EQ("", infeasible_because({Exchange::kNone}, call, all));
    return rows;
  }
  rows.ladder = static_cast<int64_t>(of({Exchange::kLadder}));
  return rows;
}

// Rows do not depend on the length, but on the ranks alone: the largest must be planned too.
TEST(ExchangeRows, OfTheGrowingConfiguration) {
  for (const int64_t len : {test::kMillion, 32 * test::kMillion, 1024 * test::kMillion}) {
    SCOPED_TRACE(len);
    for (const bool causal : {false, true}) {
      const Pattern pattern = test::growing(len, causal);
      EXPECT_EQ((RowsPerHead{1024, 1024, 1024}), rows_per_head(pattern, len, 2));
      EXPECT_EQ((RowsPerHead{4352, 3072, 3072}), rows_per_head(pattern, len, 8));
      EXPECT_EQ((RowsPerHead{8256, 5120, 5120}), rows_per_head(pattern, len, 32));
      EXPECT_EQ((RowsPerHead{10272, 6144, 6144}), rows_per_head(pattern, len, 64));
      EXPECT_EQ((RowsPerHead{14344, 8192, 8192}), rows_per_head(pattern, len, 256));
    }
  }
  EXPECT_EQ((RowsPerHead{18434, 10240, 10240}),
            rows_per_head(test::growing(test::kMillion, true), test::kMillion, 1024));
  const int64_t billion = 1024 * test::kMillion;
  EXPECT_EQ((RowsPerHead{18434, 10240, 10240}), rows_per_head(test::growing(billion, true), billion, 1024));
}

TEST(ExchangeRows, OfTheFixedConfiguration) {
  for (const bool causal : {false, true}) {
    const Pattern pattern = fixed(causal);
    for (const int64_t ranks : {1, 2, 32}) {
      EXPECT_EQ((RowsPerHead{}), rows_per_head(pattern, test::kMillion, ranks));
    }
    EXPECT_EQ((RowsPerHead{1024, 1024, 1024}), rows_per_head(pattern, test::kMillion, 64));
    EXPECT_EQ((RowsPerHead{4352, 3072, 3072}), rows_per_head(pattern, test::kMillion, 256));
    EXPECT_EQ((RowsPerHead{8256, 5120, 5120}), rows_per_head(pattern, test::kMillion, 1024));
    EXPECT_EQ((RowsPerHead{}), rows_per_head(pattern, 32 * test::kMillion, 1024));
  }
}

// The formulas, on ranks and lengths of any kind that divide: sums over the groups that are longer than a shard.
TEST(ExchangeRows, AreTheFormulas) {
  for (const int64_t ranks : {2, 4, 8, 16, 32}) {
    for (const int64_t shard : {32, 64, 128, 256}) {
      const int64_t len = ranks * shard;
      std::vector<int64_t> segments, rates;
      for (int64_t w = 32; w <= len; w *= 2) {
        segments.push_back(w);
        rates.push_back(std::min<int64_t>(w / 32, 32));
      }
      int64_t alone = 0, united = 0, before = shard;
      for (size_t g = 0; g < segments.size(); ++g) {
        if (segments[g] <= shard) continue;
        alone += (segments[g] - shard) / rates[g];
        united += (segments[g] - before) / rates[g];
        before = segments[g];
      }
      const Extent e = {.batch = 3, .heads = 8, .kv_heads = 4, .len_q = len, .len_k = len};
      const ShardedCall call(Pattern::dilated(segments, rates), e, Shards::even(len, ranks));
      const Survey all = survey(call);
      for (const RankLoad& load : all.ranks) {
        int64_t its_alone = 0;
        for (const SourceLoad& its : load.sources) its_alone += its.alone;
        EXPECT_EQ(12 * alone, its_alone);
        EXPECT_EQ(12 * united, load.rows);
      }
      const Volume direct = worst_volume({Exchange::kDirect}, call, all, kShape);
      EXPECT_EQ(12 * united * 2 * 64 * 2, direct.forward_bytes);
      EXPECT_EQ(12 * united * 2 * 64 * 4, direct.backward_bytes);
      // The same rows, and in the backward keys once more.
      const Volume ring = worst_volume({Exchange::kRing}, call, all, kShape);
      EXPECT_EQ(direct.forward_bytes, ring.forward_bytes);
      EXPECT_EQ(direct.forward_bytes + direct.backward_bytes, ring.backward_bytes);
      for (int64_t u = 2; u <= std::min<int64_t>(4, ranks); u *= 2) {
        // Of the segments beyond the shards of u ranks the rows of one share of the heads.
        int64_t beyond = 0, last = u * shard;
        for (size_t g = 0; g < segments.size(); ++g) {
          if (segments[g] > last) beyond += (segments[g] - last) / rates[g], last = segments[g];
        }
        // q, k and v one way, out and lse the other: 8 heads, 4 of keys and of values.
        const int64_t inputs = (8 + 4 + 4) / u * 64 * 2, results = 8 / u * (64 * 2 + 4);
        const int64_t turned = 3 * (u - 1) * shard * (inputs + results);
        const Volume heads = worst_volume({Exchange::kHeads, u}, call, all, kShape);
        EXPECT_EQ(12 / u * beyond * 2 * 64 * 2 + turned, heads.forward_bytes);
        EXPECT_EQ(12 / u * beyond * 2 * 64 * 4 + turned, heads.backward_bytes);
      }
    }
  }
}

// Offsets by blocks of heads are not nested: more rows travel than of a union that is, and the ladder has none.
TEST(ExchangeRows, OfOffsetsThatAreNotNested) {
  DilatedOptions options{.head_offset = HeadOffset::kBlock};
  const Pattern pattern = Pattern::dilated({64, 128, 256}, {1, 2, 4}, options);
  const ShardedCall call(pattern, test::square(8, 256), Shards::even(256, 8));
  const Survey all = survey(call);
  EXPECT_THAT(infeasible_because({Exchange::kLadder}, call, all), HasSubstr("KV head 2 samples at rate 4"));
  EXPECT_EQ("", infeasible_because({Exchange::kDirect}, call, all));
}

ShardedCall small(const Pattern& pattern, int64_t heads = 12, int64_t ranks = 8) {
  return {pattern, test::square(heads, 1024), Shards::even(1024, ranks)};
}

std::vector<std::string> feasible(const ShardedCall& call) {
  std::vector<std::string> names;
  for (const ExchangePlan& plan : feasible_plans(call, survey(call))) names.push_back(name(plan));
  return names;
}

TEST(ExchangePlans, ThatCanBeHad) {
  const Pattern nested = Pattern::dilated({256, 512, 1024}, {1, 2, 4});
  EXPECT_THAT(feasible(small(nested)), ElementsAre("direct", "ladder", "heads(2)", "heads(4)", "ring"));
  EXPECT_THAT(feasible(small(nested, 12, 1)), ElementsAre("none", "direct", "ring"));
  EXPECT_THAT(feasible(small(nested, 6, 4)), ElementsAre("direct", "ladder", "heads(2)", "ring"));
  EXPECT_THAT(feasible(small(Pattern::dilated({128, 64}, {2, 1}))),
              ElementsAre("none", "direct", "heads(2)", "heads(4)", "ring"));
  EXPECT_THAT(feasible(small(Pattern::dilated({256, 512}, {1, 4}), 8)),
              ElementsAre("direct", "heads(2)", "heads(4)", "heads(8)", "ring"));
  EXPECT_THAT(feasible(small(Pattern::dilated({256, 1024}, {1, 2}), 2)), ElementsAre("direct", "heads(2)", "ring"));
  EXPECT_THAT(feasible(small(nested.with_blocks({BlockPattern(16, LocalWindow{.window = 64})}))),
              ElementsAre("direct", "heads(2)", "heads(4)", "ring"));
  EXPECT_THAT(feasible({nested, test::square(5, 1000), Shards::even(1000, 8)}), ElementsAre("direct", "ring"));
  EXPECT_THAT(feasible({nested, test::square(6, 1024), Shards::zigzag(1024, 8)}),
              ElementsAre("direct", "heads(2)", "ring"));
  EXPECT_THAT(feasible({nested, test::square(2, 0), Shards::even(0, 8)}),
              ElementsAre("none", "direct", "heads(2)", "ring"));
  Extent documents = test::square(4, 1024);
  documents.cu_seqlens = {0, 0, 1024, 1024};
  EXPECT_THAT(feasible({nested, documents, Shards::even(1024, 8)}),
              ElementsAre("direct", "ladder", "heads(2)", "heads(4)", "ring"));
  documents.cu_seqlens = {0, 100, 1024};
  EXPECT_THAT(feasible({nested, documents, Shards::even(1024, 8)}),
              ElementsAre("direct", "heads(2)", "heads(4)", "ring"));
}

TEST(ExchangePlans, NamesGoBothWays) {
  for (const ExchangePlan& plan : std::vector<ExchangePlan>{{Exchange::kNone},
                                                            {Exchange::kDirect},
                                                            {Exchange::kLadder},
                                                            {Exchange::kHeads, 2},
                                                            {Exchange::kHeads, 1024},
                                                            {Exchange::kRing}}) {
    EXPECT_EQ(plan, exchange_from_name(name(plan)));
  }
}

void expect_refusal(const std::string& words, const std::function<void()>& make) {
  try {
    make();
    ADD_FAILURE() << "not refused: " << words;
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(words));
  }
}

TEST(ExchangePlans, RefuseWhatCannotBeHad) {
  const ShardedCall call = small(Pattern::dilated({256, 512, 1024}, {1, 2, 4}));
  const Survey all = survey(call);
  const auto asked = [&](const char* exchange) {
    return [&, exchange] { choose(call, all, kShape, Hardware(), exchange); };
  };
  expect_refusal(
      "exchange must be one of [direct, ladder, heads(2), heads(4), ring] here, got heads(8); 8 does not "
      "divide kv_heads (12)",
      asked("heads(8)"));
  expect_refusal("got heads(3); 3 does not divide the 8 ranks", asked("heads(3)"));
  expect_refusal("got heads(12); 12 does not divide the 8 ranks", asked("heads(12)"));
  expect_refusal("got heads(1); it divides heads among at least 2 ranks", asked("heads(1)"));
  expect_refusal("got none; rank 0 needs 4608 rows of other ranks", asked("none"));
  expect_refusal("unknown exchange 'lader'", asked("lader"));
  expect_refusal("did you mean 'ladder'?", asked("lader"));
  EXPECT_EQ((ExchangePlan{Exchange::kRing}), plan_to_run("ring", call));
  EXPECT_EQ((ExchangePlan{Exchange::kDirect}), plan_to_run("auto", call));
  EXPECT_EQ((ExchangePlan{Exchange::kNone}), plan_to_run("none", call));  // its rows are counted elsewhere
  EXPECT_EQ((ExchangePlan{Exchange::kHeads, 4}), plan_to_run("heads(4)", call));
  const std::string those = "exchange must be auto or one of [direct, heads(2), heads(4), ring] here, got ";
  expect_refusal(those + "ladder; it is in the model of costs alone", [&] { plan_to_run("ladder", call); });
  expect_refusal(those + "heads(8); 8 does not divide kv_heads (12)", [&] { plan_to_run("heads(8)", call); });
  expect_refusal(
      "slopes must go by exchange heads(8), for which 8 must divide kv_heads, got 12; take as many ranks as divide "
      "kv_heads, or leave slopes out",
      [&] { plan_to_run("auto", call, "slopes"); });
  expect_refusal("slopes must go by exchange heads(8)", [&] { plan_to_run("heads(8)", call, "slopes"); });
  for (const char* other : {"none", "direct", "ring", "ladder", "heads(4)"})
    expect_refusal(
        std::string("exchange must be auto or heads(8) with slopes, for which ranks have whole sequences, got ") +
            other,
        [&] { plan_to_run(other, call, "slopes"); });
  expect_refusal("unknown exchange 'rign'", [&] { plan_to_run("rign", call, "slopes"); });
  for (const char* word : {"heads(", "heads()", "heads(x)", "heads(2) ", "heads(99999999999999999999)", ""}) {
    expect_refusal("unknown exchange", asked(word));
  }
}

TEST(ExchangePlans, RefuseCallsThatTheyAreNotFor) {
  const Pattern pattern = Pattern::dilated({4}, {1});
  const Extent e = test::square(2, 16);
  expect_refusal("pattern must have groups or blocks", [&] { ShardedCall(Pattern(), e, Shards::even(16, 2)); });
  expect_refusal("shards must hold len_k (16) tokens in all, got 15 on 2 ranks",
                 [&] { ShardedCall(pattern, e, Shards::even(15, 2)); });
  expect_refusal("len_q must be len_k (16) where the sequence lies in shards, got 1; decode on one rank",
                 [&] { ShardedCall(pattern, test::step(2, 16), Shards::even(16, 2)); });
}

}  // namespace
}  // namespace longstride::parallel
