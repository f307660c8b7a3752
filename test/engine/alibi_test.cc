// ALiBi on the torch-free engines: against the oracle beside everything that a case can have; slopes at both ends of
// what float32 holds; keys far from their queries; what a key moves; what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "engine/cpu/cpu.h"
#include "engine/reference/reference.h"
#include "longstride/error.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using core::DType;

std::vector<Engine> engines_for(DType dtype) {
  if (dtype == DType::kFloat64) return {reference_engine()};
  return {reference_engine(), cpu_engine()};
}

// Of the seeded cases one in three has slopes.
TEST(AlibiOfEngines, AgreesWithTheOracleBesideEverything) {
  int64_t random = 0, by_cpu = 0, failures = 0;
  const PairsGemm gemm;
  for_each_case(3000, Poison::kUnread, [&](const Case& c) {
    if (c.choice[kAlibi] == 0 || failures >= 5) return;
    for (const Engine& engine : engines_for(c.dtype)) {
      const engine::Workspace w = threads(1 + static_cast<int>(c.seed % 2), c.seed % 3 ? nullptr : &gemm);
      const std::string fault = against_oracle(engine, c, run_case(engine, c, w));
      EXPECT_EQ("", fault);
      failures += !fault.empty();
      by_cpu += engine.name == "cpu";
    }
    random += c.seed < 1'000'000;
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  EXPECT_GE(random, share(800));
  EXPECT_GE(by_cpu, share(600));
  EXPECT_GT(gemm.calls, 0);
}

// Plain attention of one batch row, values drawn from the seed.
Case plain(DType dtype, int64_t heads, int64_t len, bool causal, std::vector<double> slopes) {
  Choice choice(kFactors, 0);
  choice[kDType] = static_cast<int>(dtype);
  choice[kDim] = 3;
  choice[kDLse] = 1;
  return make_case(choice, 17, Poison::kNone, [&](DType&, oracle::Options& o) {
    o.batch = 1;
    o.heads = o.kv_heads = heads;
    o.len_q = o.len_k = len;
    o.segments = {len};
    o.rates = {1};
    o.causal = causal;
    for (double& slope : slopes) slope = static_cast<float>(slope);
    o.alibi_slopes = slopes;
  });
}

TEST(AlibiOfEngines, ASlopeOfZeroChangesNoBit) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const Engine& engine : engines_for(dtype)) {
      for (const bool causal : {false, true}) {
        const Case with = plain(dtype, 2, 150, causal, {0.0, -0.0});
        Case without = with;
        without.options.alibi_slopes.clear();
        EXPECT_TRUE(run_case(engine, with) == run_case(engine, without)) << engine.name << " " << core::name(dtype);
      }
    }
  }
}

// A head without a slope beside one that has one.
TEST(AlibiOfEngines, EveryHeadHasItsOwn) {
  for (const Engine& engine : engines_for(DType::kFloat32)) {
    const Results both = run_case(engine, plain(DType::kFloat32, 2, 70, true, {0.0, 0.5}));
    const Results none = run_case(engine, plain(DType::kFloat32, 2, 70, true, {0.0, 0.0}));
    for (int64_t i = 0; i < 70; ++i) EXPECT_EQ(both.lse[i], none.lse[i]);
    int64_t moved = 0;
    for (int64_t i = 70; i < 140; ++i) moved += both.lse[i] != none.lse[i];
    EXPECT_GT(moved, 60);
  }
}

// So steep that a query sees itself alone, or, below zero, the farthest key alone; up to the end of float32.
TEST(AlibiOfEngines, SteepSlopes) {
  constexpr int64_t kLen = 140;
  for (const double slope : {1e4, 1e30, -1e4, -1e30, 3.4e38}) {
    for (const bool causal : {false, true}) {
      for (const Engine& engine : engines_for(DType::kFloat32)) {
        const Case c = plain(DType::kFloat32, 1, kLen, causal, {slope});
        const Results r = run_case(engine, c);
        for (int64_t i = 0; i < kLen; ++i) {
          // In the middle two are farthest.
          if (slope < 0 && !causal && (i == kLen / 2 || i == kLen / 2 - 1)) continue;
          const int64_t seen = slope > 0 ? i : causal || i >= kLen / 2 ? 0 : kLen - 1;
          for (int64_t d = 0; d < c.options.dim; ++d)
            EXPECT_EQ(r.out[i * c.options.dim + d], c.v[seen * c.options.dim + d]) << slope << " " << i;
        }
        for (const auto* x : {&r.dq, &r.dk, &r.dv})
          EXPECT_TRUE(std::all_of(x->begin(), x->end(), [](double value) { return std::isfinite(value); })) << slope;
        if (std::abs(slope) < 1e38) {
          EXPECT_EQ(against_oracle(engine, c, r), "") << slope;
        }
      }
    }
  }
}

// Two keys of equal products, hundreds of thousands to a billion of positions before their query: what counts is how
// far they are from each other. Compiled plans would be as long as the sequence; this one has one tile and one run.
TEST(AlibiOfEngines, KeysThatAreFarAreToldApart) {
  constexpr int64_t kColumns = 40;
  for (const int64_t far : {int64_t{1} << 18, (int64_t{1} << 24) + 5, (int64_t{1} << 30) + 3}) {
    for (const float slope : {0.25f, -0.0625f, 0.7f}) {
      for (const Engine& engine : engines_for(DType::kFloat32)) {
        Plan plan;
        plan.geometry.tile_rows = 1;
        plan.class_of = {0};
        plan.classes = {{0, 1, 0}};
        plan.levels = {{1, 0, 1, false}};
        plan.sections = {{0, 1, 1, 0, 0}};
        plan.tiles = {Tile{.row0 = far + kColumns, .rows = 1, .run_begin = 0, .run_count = 1}};
        longstride::Run run;
        run.columns = kColumns;
        run.row_end = 1;
        plan.runs = {run};
        const float one = 1;
        std::vector<float> values(kColumns);
        double sum = 0, mean = 0;
        for (int64_t i = 0; i < kColumns; ++i) {
          values[i] = static_cast<float>(i);
          const double share = std::exp(-static_cast<double>(slope) * static_cast<double>(kColumns - i));
          sum += share;
          mean += share * values[i];
        }
        float out = 0, lse = 0;
        engine::ForwardProblem p;
        p.dtype = DType::kFloat32;
        p.batch = p.heads = p.kv_heads = p.len_q = p.dim = 1;
        p.len_k = kColumns;  // the tile stands beyond them, where another rank's queries would
        p.query_start = far + kColumns;
        p.alibi = true;
        p.alibi_slopes = &slope;
        p.q = {&one, 0, 1, 0};
        p.k = {&one, 0, 0, 0};
        p.v = {values.data(), 0, 1, 0};
        p.out = {&out, 0, 1, 0};
        p.lse = &lse;
        engine.forward(p, plan.view(), {});
        const double exact = 1 - static_cast<double>(slope) * static_cast<double>(far) + std::log(sum);
        EXPECT_NEAR(out, mean / sum, 1e-5) << engine.name << " " << far << " " << slope;
        EXPECT_NEAR(lse, exact, std::abs(exact) * 0x1p-23) << engine.name << " " << far << " " << slope;
      }
    }
  }
}

// Changing k[p] and v[p] moves no query before p.
TEST(AlibiOfEngines, CausalLeakProbe) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Choice choice = random_choice(seed);
    choice[kDType] = static_cast<int>(seed % 4);
    choice[kAlibi] = 1 + static_cast<int>(seed / 4 % 2);
    choice[kCausal] = 1;
    choice[kLength] = 6;
    choice[kStart] = choice[kDocuments] = choice[kDropoutP] = 0;
    const Case c = make_case(choice, seed, Poison::kNone);
    const oracle::Options& o = c.options;
    const int64_t p = static_cast<int64_t>(seed * 13) % o.len_k, row = o.kv_heads * o.dim;
    Case changed = c;
    for (int64_t i = 0; i < o.batch * row; ++i) {
      const int64_t at = (i / row * o.len_k + p) * row + i % row;
      changed.k[at] = rounded(3.5, c.dtype);
      changed.v[at] = rounded(-9.25, c.dtype);
    }
    for (const Engine& engine : engines_for(c.dtype)) {
      const Results before = run_case(engine, c, threads(2)), after = run_case(engine, changed, threads(2));
      const int64_t out_row = o.heads * o.dim;
      for (int64_t b = 0; b < o.batch; ++b) {
        for (int64_t i = 0; i < p * out_row; ++i) {
          const int64_t at = b * o.len_q * out_row + i;
          ASSERT_EQ(before.out[at], after.out[at]) << engine.name << '\n' << c.words();
        }
      }
    }
  }
}

// A key that is no number reaches the rows that see it, and no other; its value does too, however little it counts.
TEST(AlibiOfEngines, NanReachesWhoSeesItHoweverFar) {
  constexpr int64_t kLen = 400, kKey = 77;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (const double slope : {0.3, 40.0}) {
      for (const bool causal : {false, true}) {
        const Case c = plain(dtype, 1, kLen, causal, {slope});
        Case of_key = c, of_value = c;
        of_key.k[kKey * c.options.dim] = of_value.v[kKey * c.options.dim] = std::nan("");
        for (const Engine& engine : engines_for(dtype)) {
          const Results key = run_case(engine, of_key), value = run_case(engine, of_value);
          for (int64_t i = 0; i < kLen; ++i) {
            const bool hit = !causal || i >= kKey;
            EXPECT_EQ(std::isnan(key.lse[i]), hit) << engine.name << " " << i << " " << slope;
            EXPECT_EQ(std::isnan(key.out[i * c.options.dim]), hit) << engine.name << " " << i << " " << slope;
            if (hit) {
              EXPECT_TRUE(std::isnan(value.out[i * c.options.dim])) << engine.name << " " << i << " " << slope;
            }
          }
        }
      }
    }
  }
}

TEST(AlibiOfEngines, SlopesMustBeThere) {
  engine::ForwardProblem p;
  p.batch = p.heads = p.kv_heads = p.len_q = p.len_k = p.dim = 1;
  p.alibi = true;
  const Plan plan = compile(Pattern::dilated({1}, {1}), {.len_q = 1, .len_k = 1}, {});
  EXPECT_THROW(engine::cpu::forward(p, plan.view(), {}), Error);
  EXPECT_THROW(engine::reference::forward(p, plan.view(), {}), Error);
}

}  // namespace
}  // namespace longstride::test
