// The reference engine against the oracle, option by option and poisoned: where they differ, the plan is wrong, or one
// of the two is. Then what must hold whatever the numbers: no leak from the future, batch rows on their own, threads.
#include "engine/reference/reference.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "longstride/error.h"
#include "test/engine/compare.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

// A joint causal float64 case of two groups, len tokens, to be changed by the tests below.
Case plain_case(int64_t len, bool causal) {
  Choice choice(kFactors, 0);
  choice[kCausal] = causal;
  choice[kLength] = 0;
  Case c = make_case(choice, 5, Poison::kNone);
  oracle::Options& o = c.options;
  o.batch = 2;
  o.len_q = o.len_k = len;
  o.segments = {8, 32};
  o.rates = {1, 3};
  const auto fill = [](std::vector<double>& x, int64_t n, double phase) {
    x.resize(n);
    for (int64_t i = 0; i < n; ++i) x[i] = std::sin(phase + 1.7 * static_cast<double>(i));
  };
  fill(c.q, o.batch * len * o.heads * o.dim, 0.1);
  fill(c.k, o.batch * len * o.kv_heads * o.dim, 0.2);
  fill(c.v, o.batch * len * o.kv_heads * o.dim, 0.3);
  fill(c.d_out, o.batch * len * o.heads * o.dim, 0.4);
  return c;
}

TEST(Cases, GridCoversEveryPairOfLevels) {
  const std::vector<int>& levels = levels_of_factors();
  ASSERT_EQ(levels.size(), static_cast<size_t>(kFactors));
  for (int f = 0; f < kFactors; ++f) {
    for (int g = 0; g < f; ++g) {
      for (int x = 0; x < levels[f]; ++x) {
        for (int y = 0; y < levels[g]; ++y) {
          const auto& grid = pairwise_choices();
          EXPECT_TRUE(std::any_of(grid.begin(), grid.end(),
                                  [&](const Choice& choice) { return choice[f] == x && choice[g] == y; }))
              << f << "=" << x << " with " << g << "=" << y;
        }
      }
    }
  }
}

TEST(Reference, AgreesWithTheOracle) {
  const Engine engine = reference_engine();
  int failures = 0;
  for_each_case(2000, Poison::kUnread, [&](const Case& c) {
    if (failures >= 5) return;
    const std::string wrong = against_oracle(engine, c, run_case(engine, c));
    if (!wrong.empty()) ++failures;
    EXPECT_EQ("", wrong);
  });
}

// The comparison itself must be able to fail: one group's rate changed in what the oracle is asked.
TEST(Reference, DisagreesWithAnotherPattern) {
  const Engine engine = reference_engine();
  Case c = plain_case(40, false);
  const Results results = run_case(engine, c);
  EXPECT_EQ("", against_oracle(engine, c, results));
  c.options.rates = {1, 2};
  EXPECT_NE("", against_oracle(engine, c, results));
  c.options.rates = {1, 3};
  c.options.causal = true;
  EXPECT_NE("", against_oracle(engine, c, results));
}

TEST(Reference, NothingLeaksFromTheFuture) {
  const Engine engine = reference_engine();
  const Case before = plain_case(45, true);
  const Results then = run_case(engine, before);
  const int64_t row = before.options.heads * before.options.dim;
  for (const int64_t p : {0, 7, 8, 31, 32, 44}) {
    Case after = before;
    for (int64_t d = 0; d < row; ++d) {
      after.k[p * row + d] += 3;
      after.v[p * row + d] = std::numeric_limits<double>::quiet_NaN();
    }
    const Results now = run_case(engine, after);
    EXPECT_TRUE(std::equal(now.out.begin(), now.out.begin() + p * row, then.out.begin())) << p;
    EXPECT_FALSE(std::equal(now.out.begin(), now.out.begin() + (p + 1) * row, then.out.begin())) << p;
  }
}

TEST(Reference, NanReachesExactlyTheRowsThatAttend) {
  const Engine engine = reference_engine();
  for (const bool in_key : {false, true}) {
    Case c = plain_case(45, false);
    const int64_t bad = 12;
    const int64_t dim = c.options.dim;
    (in_key ? c.k : c.v)[bad * c.options.heads * dim + 2 * dim] = std::numeric_limits<double>::quiet_NaN();  // head 2
    const Results results = run_case(engine, c);
    for (int64_t b = 0; b < 2; ++b) {
      for (int64_t h = 0; h < c.options.heads; ++h) {
        const oracle::Sight sight(c.options, b, h);
        for (int64_t i = 0; i < c.options.len_q; ++i) {
          const bool reached = b == 0 && h == 2 && sight.multiplicity(i, bad) > 0;
          EXPECT_EQ(std::isnan(results.out[((b * c.options.len_q + i) * c.options.heads + h) * dim]), reached);
        }
      }
    }
  }
}

TEST(Reference, PermutingTheBatchPermutesTheResultsBitForBit) {
  const Engine engine = reference_engine();
  const Case c = plain_case(37, true);
  Case swapped = c;
  for (std::vector<double>* x : {&swapped.q, &swapped.k, &swapped.v, &swapped.d_out}) {
    std::rotate(x->begin(), x->begin() + static_cast<int64_t>(x->size() / 2), x->end());
  }
  Results a = run_case(engine, c);
  const Results b = run_case(engine, swapped);
  for (std::vector<double>* x : {&a.out, &a.lse, &a.dq, &a.dk, &a.dv}) {
    std::rotate(x->begin(), x->begin() + static_cast<int64_t>(x->size() / 2), x->end());
  }
  EXPECT_EQ(a, b);
}

TEST(Reference, GroupOrderDoesNotMatterUnderJointMixing) {
  const Engine engine = reference_engine();
  Case c = plain_case(50, true);
  Case reversed = c;
  std::reverse(reversed.options.segments.begin(), reversed.options.segments.end());
  std::reverse(reversed.options.rates.begin(), reversed.options.rates.end());
  EXPECT_EQ("", against_oracle(engine, c, run_case(engine, reversed)));
}

TEST(Reference, OneWholeGroupIsPlainAttention) {
  const Engine engine = reference_engine();
  Case c = plain_case(29, false);
  c.options.segments = {29};
  c.options.rates = {1};
  const Results results = run_case(engine, c);
  const oracle::Options& o = c.options;
  std::vector<double> out(c.q.size(), 0.0);
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t h = 0; h < o.heads; ++h) {
      for (int64_t i = 0; i < o.len_q; ++i) {
        double sum = 0;
        const int64_t query = ((b * o.len_q + i) * o.heads + h) * o.dim;
        for (int64_t p = 0; p < o.len_k; ++p) {
          const int64_t key = ((b * o.len_k + p) * o.heads + h) * o.dim;
          double score = 0;
          for (int64_t d = 0; d < o.dim; ++d) score += c.q[query + d] * c.k[key + d];
          const double weight = std::exp(score / std::sqrt(static_cast<double>(o.dim)));
          sum += weight;
          for (int64_t d = 0; d < o.dim; ++d) out[query + d] += weight * c.v[key + d];
        }
        for (int64_t d = 0; d < o.dim; ++d) out[query + d] /= sum;
      }
    }
  }
  EXPECT_EQ("", difference("out", results.out, out, roundoff(core::DType::kFloat64), 1e-14));
}

TEST(Reference, ThreadsChangeNothing) {
  const Engine engine = reference_engine();
  const Case c = plain_case(45, true);
  engine::Workspace workspace;
  workspace.threads = 4;
  workspace.parallel_for = [](int64_t count, const std::function<void(int64_t, int)>& body) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int64_t i = next++; i < count; i = next++) body(i, t);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  EXPECT_EQ(run_case(engine, c), run_case(engine, c, workspace));
}

// A plan written by hand: three partial rows, a merge with steps, phantoms, weights, classes, repeats; nothing that the
// planner happens to make is assumed.
TEST(Reference, RunsAHandWrittenPlan) {
  Plan plan;
  plan.geometry.tile_rows = 4;
  plan.class_of = {0};
  plan.classes = {{0, 2, 8}};
  plan.levels = {{2, 0, 1, true}, {1, 1, 1, false}};
  // Partial: tiles of stride 2 at 0 and (repeat) 4: rows 0, 2 and 4, 6, slots 0.. and 4..; base: rows 0..3, then 4..7.
  plan.sections = {{0, 1, 2, 4, 0}, {1, 1, 2, 4, 0}};
  Tile partial{0, 2, 0, 1, 0, 0, 0, 0};
  Tile base{0, 4, 1, 1, 0, 0, 1, 1};
  plan.tiles = {partial, base};
  longstride::Run sparse;  // rows 0, 2 see columns 1, 3 of two classes (0 + 1): 0, 2, 1, 3 with weight 2
  sparse.column0 = 0;
  sparse.columns = 2;
  sparse.residue_step = 1;
  sparse.residues = 2;
  sparse.weight = 2;
  sparse.row_end = 2;
  longstride::Run near;  // row j sees columns 0..j, rows 1..3 only
  near.columns = 4;
  near.diagonal = 1;
  near.row_begin = 1;
  near.row_end = 4;
  plan.runs = {sparse, near};
  plan.phantoms = {{3, 4, 5}};
  plan.merges = {{0, 4, 1, 0, 2, 2}};  // rows 0 and 2 find slots 0 and 1, in repeat 1 slots 4 and 5

  std::vector<double> q(8, 0.0), k(8, 0.0), v = {1, 10, 100, 1000, 2, 20, 200, 2000}, out(8, NAN), lse(8, NAN);
  engine::ForwardProblem p;
  p.dtype = core::DType::kFloat64;
  p.batch = p.heads = p.kv_heads = p.dim = 1;
  p.len_q = p.len_k = 8;
  p.out_scale = 0.5;
  p.q = {q.data(), 8, 1, 1};
  p.k = {k.data(), 8, 1, 1};
  p.v = {v.data(), 8, 1, 1};
  p.out = {out.data(), 8, 1, 1};
  p.lse = lse.data();
  engine::reference::forward(p, plan.view(), {});
  const std::vector<double> sums = {2 * 1111.0, 11, 2 * 1111.0 + 111, 1111};
  const std::vector<double> counts = {8, 2, 11, 9};
  for (int j = 0; j < 4; ++j) {
    EXPECT_NEAR(out[j], 0.5 * sums[j] / counts[j], 1e-12) << j;
    EXPECT_NEAR(out[4 + j], 2 * 0.5 * sums[j] / counts[j], 1e-12) << j;
    EXPECT_NEAR(lse[j], std::log(counts[j]), 1e-15) << j;
    EXPECT_NEAR(lse[4 + j], std::log(counts[j]), 1e-15) << j;
  }
}

TEST(Reference, PhantomsAloneGiveZeroAndTheirLogarithm) {
  Plan plan;
  plan.geometry.tile_rows = 2;
  plan.class_of = {0};
  plan.classes = {{0, 1, 0}};
  plan.levels = {{1, 0, 1, false}};
  plan.sections = {{0, 1, 1, 0, 0}};
  plan.tiles = {{0, 2, 0, 0, 0, 0, 1, 0}};
  plan.phantoms = {{0, 1, 7}};
  std::vector<float> q(2), out(2, NAN), lse(2, NAN);
  engine::ForwardProblem p;
  p.batch = p.heads = p.kv_heads = p.dim = 1;
  p.len_q = 2;
  p.q = {q.data(), 2, 1, 1};
  p.out = {out.data(), 2, 1, 1};
  p.lse = lse.data();
  engine::reference::forward(p, plan.view(), {});
  EXPECT_EQ(out, (std::vector<float>{0, 0}));
  EXPECT_FLOAT_EQ(lse[0], std::log(7.0f));
  EXPECT_EQ(lse[1], -std::numeric_limits<float>::infinity());
}

TEST(Reference, RefusesWhatItCannotHonour) {
  const Case c = plain_case(5, false);
  const Plan forward = compile(c.pattern(), c.extent(), c.geometry);
  engine::ForwardProblem p;
  p.batch = 2;
  p.heads = p.kv_heads = 4;
  p.dim = 8;
  p.dropout_p = 0.5;
  EXPECT_THROW(engine::reference::forward(p, forward.view(), {}), Error);  // no seed
  p.dropout_p = 0;
  EXPECT_THROW(engine::reference::backward({p}, forward.view(), {}), Error);  // not transposed
  p.batch = 3;
  EXPECT_THROW(engine::reference::forward(p, forward.view(), {}), Error);  // another extent's plan
  p.batch = 2;
  Plan exchanged = forward;
  exchanged.runs[0].buffer = 1;
  EXPECT_THROW(engine::reference::forward(p, exchanged.view(), {}), Error);
  p.float32_results = true;
  EXPECT_TRUE(engine::reference::capability(p).yes);
  p.dtype = core::DType::kFloat16;
  EXPECT_FALSE(engine::reference::capability(p).yes);
  p.float32_results = false;
  p.dim = 0;
  EXPECT_FALSE(engine::reference::capability(p).yes);
}

}  // namespace
}  // namespace longstride::test
