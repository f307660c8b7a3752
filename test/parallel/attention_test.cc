// Attention on shards, all ranks one after another in one process with received rows in their buffers, against the
// oracle of the whole sequence: out, lse and all gradients.
#include "parallel/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>

#include "longstride/error.h"
#include "test/engine/lent.h"
#include "test/parallel/simulate.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using test::Case;
using testing::HasSubstr;

// Cases that can lie in shards, in the types that parts are added in.
void for_each_case(int64_t random_count, bool with_float64, const std::function<void(const Case&)>& check) {
  test::for_each_case(random_count, test::Poison::kUnread, check, [=](core::DType& dtype, oracle::Options& o) {
    o.query_start = 0;
    o.len_q = o.len_k;
    o.dropout_p = 0;
    o.alibi_slopes.clear();
    if (dtype != core::DType::kFloat64 || !with_float64) dtype = core::DType::kFloat32;
  });
}

void expect_refusal(const char* words, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "not refused: " << words;
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr(words));
  }
}

// 1 to 5 ranks for every case; by one exchange, or round the ring.
void expect_the_whole(const test::Engine& engine, int64_t random_count, const engine::Workspace& w, bool with_float64,
                      bool ring = false) {
  int failures = 0;
  for_each_case(random_count, with_float64, [&](const Case& c) {
    if (failures >= 5) return;
    test::Draw draw(c.seed);
    const test::Held held = test::draw_shards(c.options.len_k, draw, 5);
    const std::string wrong = test::against_oracle(engine, c, test::run_ranks(engine, c, held, w, ring));
    failures += !wrong.empty();
    EXPECT_EQ("", wrong) << held.words;
  });
}

TEST(RankAttention, OnTheReferenceEngine) { expect_the_whole(test::reference_engine(), 600, {}, true); }

TEST(RankAttention, OnTheCpuEngine) { expect_the_whole(test::cpu_engine(), 300, {}, false); }

TEST(RankAttention, OnTheCpuEngineByThreads) { expect_the_whole(test::cpu_engine(), 60, test::threads(3), false); }

TEST(RankAttention, RoundTheRingOnTheReferenceEngine) {
  expect_the_whole(test::reference_engine(), 600, {}, true, true);
}

TEST(RankAttention, RoundTheRingOnTheCpuEngine) { expect_the_whole(test::cpu_engine(), 100, {}, false, true); }

// Each KV head by itself, with the rows that it samples and no other's.
TEST(RankAttention, OfSharesOfTheHeads) {
  int failures = 0, divided = 0;
  for_each_case(200, true, [&](const Case& c) {
    if (failures >= 5) return;
    test::Draw draw(c.seed);
    const test::Held held = test::draw_shards(c.options.len_k, draw, 3);
    const int64_t shares = c.options.kv_heads;
    divided += shares > 1;
    const std::string wrong = test::against_oracle(
        test::reference_engine(), c, test::run_ranks(test::reference_engine(), c, held, {}, false, shares));
    failures += !wrong.empty();
    EXPECT_EQ("", wrong) << held.words;
  });
  if (std::getenv("LONGSTRIDE_CASE") == nullptr) {
    EXPECT_GT(divided, test::share(50));
  }
  const Extent e = test::square(12, 8);
  expect_refusal("heads must be divided among ranks that divide kv_heads (12), got share 0 of 5", [&] {
    ShardedCall(Pattern::dilated({8}, {1}), e, Shards::even(8, 5), {5, 0});
  });
}

// Repeats, and threads, give the same bits.
TEST(RankAttention, RepeatsBitForBit) {
  test::Choice choice(test::kFactors, 0);
  choice[test::kCausal] = 1;
  const Case c = test::make_case(choice, 11, test::Poison::kNone, [](core::DType& dtype, oracle::Options& o) {
    dtype = core::DType::kFloat32;
    o.len_q = o.len_k = 100;
    o.segments = {16, 64, 100};
    o.rates = {1, 2, 3};
  });
  const test::Held held = test::held_zigzag(100, 4);
  for (const bool ring : {false, true}) {
    const test::Results once = test::run_ranks(test::reference_engine(), c, held, {}, ring);
    EXPECT_EQ(once, test::run_ranks(test::reference_engine(), c, held, {}, ring));
    EXPECT_EQ(once, test::run_ranks(test::reference_engine(), c, held, test::threads(3), ring));
  }
}

// Where nothing is exchanged a shard's type is any that the engine takes.
TEST(RankAttention, OfFewBitsWithoutAnExchange) {
  const Rank rank(ShardedCall(Pattern::dilated({4}, {1}), test::square(1, 8), Shards::even(8, 2)), 1);
  const RankPlans plans = compile(rank, {}, Direction::kForward);
  const std::vector<core::BFloat16> ones(4, core::to_bfloat16(1.0f));
  std::vector<core::BFloat16> out(4);
  std::vector<float> lse(4);
  engine::ForwardProblem p;
  p.dtype = core::DType::kBFloat16;
  p.batch = p.heads = p.kv_heads = p.dim = 1;
  p.len_q = p.len_k = 4;
  p.q = p.k = p.v = {ones.data(), 4, 1, 1};
  p.out = {out.data(), 4, 1, 1};
  p.lse = lse.data();
  const auto run = [](const engine::ForwardProblem& its, const PlanPointer& plan) {
    engine::reference::forward(its, plan->view(), {});
  };
  const engine::Workspace here;
  const HostMoves moves(rank, p, here);
  forward_pieces(rank, plans, p, moves, run);
  forward_gathered(rank, plans, p, nullptr, moves, run);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(1.0f, core::to_float(out[i]));
    EXPECT_NEAR(1 + std::log(4.0f), lse[i], 1e-6);
  }
}

TEST(RankAttention, RefusesWhatItHasNot) {
  const Rank rank(ShardedCall(Pattern::dilated({8}, {1}), test::square(1, 8), Shards::even(8, 2)), 1);
  const RankPlans forward = compile(rank, {}, Direction::kForward);
  const RankPlans transposed = compile(rank, {}, Direction::kTransposed);
  engine::BackwardProblem p;
  p.batch = p.heads = p.kv_heads = p.dim = 1;
  p.len_q = p.len_k = 8;
  const auto nothing = [](const auto&, const PlanPointer&, const auto&...) { ADD_FAILURE() << "an engine ran"; };
  const engine::Workspace here;
  const auto forward_of = [&](const RankPlans& plans) {
    engine::ForwardProblem f{p};
    forward_pieces(rank, plans, f, HostMoves(rank, f, here), nothing);
  };
  expect_refusal("problem must be of the 4 rows of rank 1's shard, got len_q 8", [&] { forward_of(forward); });
  p.len_q = p.len_k = 4;
  expect_refusal("plans must be compiled for this rank and direction", [&] { forward_of(transposed); });
  const engine::Gates gates;
  p.gates = &gates;
  const char* const no_gates = "gates must be none where a rank has no whole sequence, got some; divide the heads";
  expect_refusal(no_gates, [&] {
    backward_gathered(rank, {transposed}, p, nullptr, nullptr, nullptr, HostMoves(rank, p, here), nothing);
  });
  expect_refusal(no_gates, [&] { backward_pieces(rank, {transposed}, p, HostMoves(rank, p, here), nothing); });
  p.dtype = core::DType::kBFloat16;
  expect_refusal("dtype must be float32 or float64 where keys are exchanged, got bfloat16",
                 [&] { forward_of(forward); });
  p.alibi = true;
  expect_refusal("alibi_slopes must be unset where a rank has no whole sequence, got slopes; divide the heads",
                 [&] { forward_of(forward); });
  p.dropout_p = 0.5;
  p.alibi = false;
  expect_refusal("dropout_p must be 0 where a rank has no whole sequence, got 0.5; divide the heads among all ranks",
                 [&] { forward_of(forward); });
  expect_refusal("rank must be in [0, 2), got 2", [&] { Rank(rank.call, 2); });
  expect_refusal("step must be in [0, 2), got 2", [&] { Rank(rank.call, 0, 2); });
}

}  // namespace
}  // namespace longstride::parallel
