// Plans with tiles cut into parts on the torch-free engines: against the oracle beside everything that a case can have,
// bitwise repeats whoever runs which part, and the engines' own geometry where it pays.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "longstride/plan.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

bool has_parts(const Plan& plan) {
  return std::any_of(plan.levels.begin(), plan.levels.end(), [](const Level& l) { return l.parts != Parts::kNone; });
}

bool has_parts(const Plan& plan, Parts parts) {
  return std::any_of(plan.levels.begin(), plan.levels.end(), [&](const Level& l) { return l.parts == parts; });
}

std::vector<Engine> engines_for(core::DType dtype) {
  if (dtype == core::DType::kFloat64) return {reference_engine()};
  return {reference_engine(), cpu_engine()};
}

TEST(PartsOfEngines, AgreeWithTheOracleBesideEverything) {
  std::map<std::string, int64_t> met;
  int64_t failures = 0;
  for_each_case(1000, Poison::kUnread, [&](const Case& drawn) {
    if (failures >= 5) return;
    Case c = drawn;
    const oracle::Options& o = c.options;
    c.geometry = eager(c.geometry, 2 + static_cast<int32_t>(c.seed % 4));
    const auto compiled = [&](Direction d) { return compile(c.pattern(), c.extent(), c.geometry, d); };
    const Plan forward = compiled(Direction::kForward), transposed = compiled(Direction::kTransposed);
    if (!has_parts(forward) && !has_parts(transposed)) return;
    for (const Engine& engine : engines_for(c.dtype)) {
      const Results results = run_case(engine, c, forward, transposed, threads(2 + static_cast<int>(c.seed % 2)));
      const std::string fault = against_oracle(engine, c, results);
      EXPECT_EQ("", fault);
      failures += !fault.empty();
      met[engine.name]++;
      met["gates"] += has_parts(transposed, Parts::kOfBase) && results.gates && !results.gates->empty();
    }
    met["forward"] += has_parts(forward);
    met["transposed"] += has_parts(transposed);
    met["of base"] += has_parts(forward, Parts::kOfBase);
    met["some"] += has_parts(forward, Parts::kSome);
    met["phantoms"] += has_parts(forward) && !forward.phantoms.empty();
    met["grouped heads"] += o.heads > o.kv_heads;
    met["query_start"] += o.query_start > 0;
    met["lengths"] += !o.lengths.empty();
    met["documents"] += !o.cu_seqlens.empty();
    met["dropout"] += o.dropout_p > 0;
    met["windows"] += c.choice[kWindow] > 0;
  });
  if (std::getenv("LONGSTRIDE_CASE") != nullptr) return;  // one case need not have all
  for (const auto& [what, times] : met) EXPECT_GE(times, share(30)) << what;
  EXPECT_EQ(met.size(), 14U);
}

// Threads that come late at random: whoever runs a part, its sums are the same and are added in the same order.
engine::Workspace late_threads(int count) {
  engine::Workspace w;
  w.threads = count;
  w.parallel_for = [count](int64_t n, const std::function<void(int64_t, int)>& body) {
    std::vector<std::thread> team;
    std::atomic<int64_t> next{0};
    std::random_device random;
    for (int t = 0; t < count; ++t) {
      team.emplace_back([&, t, late = random() % 200] {
        std::this_thread::sleep_for(std::chrono::microseconds(late));
        for (int64_t i = next++; i < n; i = next++) body(i, t);
      });
    }
    for (std::thread& member : team) member.join();
  };
  return w;
}

TEST(PartsOfEngines, RepeatBitForBit) {
  int64_t checked = 0;
  for (uint64_t seed = 0; checked < 12; ++seed) {
    Choice choice = random_choice(seed);
    choice[kDType] = 1 + static_cast<int>(seed % 3);
    choice[kHeads] = seed % 2 ? 1 : 2;  // one KV head, or two query heads to each of three
    choice[kLength] = 6;
    Case c = make_case(choice, seed);
    c.geometry = eager(c.geometry, 3);
    const auto compiled = [&](Direction d) { return compile(c.pattern(), c.extent(), c.geometry, d); };
    const Plan forward = compiled(Direction::kForward), transposed = compiled(Direction::kTransposed);
    if (!has_parts(forward) || !has_parts(transposed)) continue;
    ++checked;
    const auto once = [&] { return run_case(cpu_engine(), c, forward, transposed, late_threads(3)); };
    const Results first = once();
    for (int n = 0; n < 4; ++n) {
      const Results again = once();
      const auto same = [](const std::vector<double>& a, const std::vector<double>& b) {
        return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](double x, double y) {
                 return x == y || (std::isnan(x) && std::isnan(y));
               });
      };
      ASSERT_TRUE(same(first.out, again.out) && same(first.lse, again.lse)) << c.words();
      ASSERT_TRUE(same(first.dq, again.dq) && same(first.dk, again.dk) && same(first.dv, again.dv)) << c.words();
      ASSERT_TRUE(same(*first.gates, *again.gates)) << c.words();
    }
  }
}

// What the last queries see, in shapes that are long for the CPU engine's own geometry.
oracle::Options last_queries(int64_t len_q, int64_t len_k, int64_t heads, int64_t kv_heads) {
  oracle::Options o;
  o.heads = heads;
  o.kv_heads = kv_heads;
  o.len_q = len_q;
  o.len_k = len_k;
  o.query_start = len_k - len_q;
  o.causal = true;
  o.dim = 16;
  o.segments = {len_k};
  o.rates = {1};
  return o;
}

Case case_of(const oracle::Options& o, core::DType dtype) {
  Case c = make_case(Choice(kFactors, 0), 7, Poison::kNone);
  c.dtype = dtype;
  c.options = o;
  c.has_d_lse = true;
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  const auto fill = [&](std::vector<double>& x, int64_t count, core::DType type) {
    x.resize(count);
    for (double& value : x) value = rounded(normal(random), type);
  };
  fill(c.q, o.len_q * o.heads * o.dim, dtype);
  fill(c.d_out, o.len_q * o.heads * o.dim, dtype);
  fill(c.k, o.len_k * o.kv_heads * o.dim, dtype);
  fill(c.v, o.len_k * o.kv_heads * o.dim, dtype);
  fill(c.d_lse, o.len_q * o.heads, core::DType::kFloat32);
  return c;
}

TEST(PartsOfEngines, TheCpuEnginesOwnGeometry) {
  constexpr int64_t kLong = 32768;
  constexpr int kThreads = 16;
  std::map<std::string, oracle::Options> shapes = {
      {"decode", last_queries(1, kLong, 1, 1)},  {"grouped heads", last_queries(1, kLong, 4, 1)},
      {"dropout", last_queries(1, kLong, 2, 1)}, {"three queries", last_queries(3, kLong, 2, 2)},
      {"dilated", last_queries(1, kLong, 1, 1)}, {"global tokens", last_queries(4096, 4096, 1, 1)}};
  shapes["dropout"].dropout_p = 0.3;
  shapes["dropout"].dropout_seed = 5;
  shapes["dilated"].segments = {kLong / 2, kLong};
  shapes["dilated"].rates = {1, 4};
  shapes["dilated"].offsets = {0, 3};
  oracle::Options& global = shapes["global tokens"];
  global.causal = false;
  global.segments = global.rates = {};
  global.blocks = {{.kind = oracle::BlockKind::kGlobalLocal, .window = 16, .global_tokens = 2}};
  for (const auto& [name, options] : shapes) {
    for (const core::DType dtype : {core::DType::kFloat32, core::DType::kBFloat16}) {
      const Case c = case_of(options, dtype);
      const engine::Problem p{.dtype = dtype,
                              .batch = 1,
                              .heads = options.heads,
                              .kv_heads = options.kv_heads,
                              .len_q = options.len_q,
                              .len_k = options.len_k,
                              .dim = options.dim};
      const auto compiled = [&](Direction d) {
        Geometry g = engine::cpu::geometry(dtype, p.dim, options.causal, d);
        g.workers = engine::cpu::workers(p, d, kThreads);
        return compile(c.pattern(), c.extent(), g, d);
      };
      const Plan forward = compiled(Direction::kForward), transposed = compiled(Direction::kTransposed);
      EXPECT_TRUE(has_parts(forward)) << name;
      EXPECT_EQ(has_parts(transposed), name == "global tokens") << name;
      EXPECT_EQ("", against_oracle(cpu_engine(), c, run_case(cpu_engine(), c, forward, transposed, threads(kThreads))))
          << name;
    }
  }
}

// Whole heads side by side keep everyone busy: nothing is to be cut.
TEST(PartsOfEngines, HeadsSideBySideHaveOneWorkerEach) {
  const auto workers = [](int64_t heads, int64_t len, Direction d, int threads) {
    const engine::Problem p{.batch = 1, .heads = heads, .kv_heads = heads, .len_q = len, .len_k = len, .dim = 64};
    return engine::cpu::workers(p, d, threads);
  };
  EXPECT_EQ(workers(8, 4096, Direction::kForward, 1), 1);
  EXPECT_EQ(workers(8, 4096, Direction::kForward, 2), 2);
  EXPECT_EQ(workers(16, 4096, Direction::kForward, 2), 1);
  EXPECT_EQ(workers(16, (1 << 20), Direction::kForward, 2), 2) << "copies of two heads' keys do not fit";
  EXPECT_EQ(workers(8, 4096, Direction::kTransposed, 2), 1);
  EXPECT_EQ(workers(1, 4096, Direction::kTransposed, 4), 4);
  EXPECT_EQ(workers(1, (1 << 20), Direction::kTransposed, 4), 1) << "two heads' dQ do not fit";
  EXPECT_EQ(workers(0, 4096, Direction::kForward, 2), 1);
}

}  // namespace
}  // namespace longstride::test
