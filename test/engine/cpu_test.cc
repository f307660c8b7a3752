// The CPU engine against the oracle on the whole case grid, with each product, cell and thread count that it can use.
#include "engine/cpu/cpu.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "core/half.h"
#include "engine/cpu/kernels.h"
#include "longstride/error.h"
#include "test/engine/cases.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

const Engine kCpu = cpu_engine();

void check_grid(int64_t random_count, const engine::Workspace& w) {
  int64_t checked = 0;
  for_each_case(random_count, Poison::kUnread, [&](const Case& c) {
    if (c.dtype == core::DType::kFloat64) return;
    ++checked;
    EXPECT_EQ(against_oracle(kCpu, c, run_case(kCpu, c, w)), "");
  });
  EXPECT_GT(checked, 0);
}

TEST(Cpu, GridWithThePortableProduct) { check_grid(400, {}); }

TEST(Cpu, GridWithPairsOnTwoThreads) {
  const PairsGemm gemm;
  check_grid(200, threads(2, &gemm));
  EXPECT_GT(gemm.calls, 0);
}

TEST(Cpu, GridOnThreeThreads) { check_grid(100, threads(3)); }

// Choice of a random seed with some factors set.
Choice choose(uint64_t seed, std::initializer_list<std::pair<Factor, int>> set) {
  Choice choice = random_choice(seed);
  for (const auto& [factor, level] : set) choice[factor] = level;
  return choice;
}

// Decoding steps: of few queries no keys are packed ahead.
TEST(Cpu, FewQueries) {
  const PairsGemm gemm;
  for (uint64_t seed = 0; seed < static_cast<uint64_t>(share(120)); ++seed) {
    const Choice choice = choose(
        seed, {{kDType, 1 + static_cast<int>(seed % 3)}, {kStart, 1}, {kDocuments, 0}, {kLength, 6}, {kHeads, 0}});
    const Case c = make_case(choice, seed, Poison::kUnread, [&](core::DType&, oracle::Options& o) {
      o.len_q = std::min(o.len_k - o.query_start, 1 + static_cast<int64_t>(seed % 9));
    });
    const int count = 1 + static_cast<int>(seed % 2);
    ASSERT_EQ(against_oracle(kCpu, c, run_case(kCpu, c, threads(count, seed % 4 > 1 ? &gemm : nullptr))), "");
  }
}

// dims that need padding, several vectors, several packed groups; lengths beyond a block of 64 columns.
void resize(Case& c, int64_t dim, int64_t len) {
  c.options.dim = dim;
  c.options.len_k = c.options.len_q = len;
  c.options.query_start = 0;
  c.options.cu_seqlens.clear();
  c.options.lengths.clear();
  std::mt19937 random(static_cast<uint32_t>(c.seed));
  std::normal_distribution<double> normal;
  const auto fill = [&](std::vector<double>& x, int64_t heads) {
    x.resize(c.options.batch * len * heads * dim);
    for (double& value : x) value = rounded(normal(random), c.dtype);
  };
  fill(c.q, c.options.heads);
  fill(c.k, c.options.kv_heads);
  fill(c.v, c.options.kv_heads);
  fill(c.d_out, c.options.heads);
  if (c.has_d_lse) {
    c.d_lse.resize(c.options.batch * c.options.heads * len);
    for (double& value : c.d_lse) value = static_cast<float>(normal(random));
  }
}

TEST(Cpu, AnyDim) {
  const PairsGemm gemm;
  uint64_t seed = 40;
  for (const int64_t dim : {1, 5, 8, 33, 48, 64, 80, 128, 256}) {
    for (const int dtype : {1, 2, 3}) {
      for (const int causal : {0, 1}) {
        ++seed;
        // A list of blocks would be of the length that it was drawn for.
        const Choice choice =
            choose(seed, {{kDType, dtype}, {kCausal, causal}, {kHeads, 1}, {kMixing, 0}, {kBlocks, 0}});
        Case c = make_case(choice, seed);
        resize(c, dim, 77);
        EXPECT_EQ(against_oracle(kCpu, c, run_case(kCpu, c, threads(1, dtype == 2 ? &gemm : nullptr))), "");
      }
    }
  }
}

// The tiles that the engine asks for itself, on lengths of many blocks.
TEST(Cpu, ItsOwnGeometry) {
  const PairsGemm gemm;
  uint64_t seed = 90;
  for (const int64_t len : {192, 261}) {
    for (const int dtype : {1, 2, 3}) {
      for (const int causal : {0, 1}) {
        ++seed;
        Case c = make_case(choose(seed, {{kDType, dtype}, {kCausal, causal}, {kHeads, 2}, {kMixing, 0}}), seed);
        resize(c, 24, len);
        c.options.segments = {64, 128, 512};
        c.options.rates = {1, 2, 4};
        c.options.offsets.clear();
        const auto plan = [&](Direction d) {
          return compile(c.pattern(), c.extent(), engine::cpu::geometry(c.dtype, c.options.dim, causal, d), d);
        };
        const Plan forward = plan(Direction::kForward);
        const Plan transposed = plan(Direction::kTransposed);
        for (const int count : {1, 2}) {
          EXPECT_EQ(against_oracle(kCpu, c, run_case(kCpu, c, forward, transposed, threads(count, &gemm))), "");
        }
      }
    }
  }
}

// Keys a query of LongNet's groups at len 32768 in the tiles that the engine asks for: without the diagonal just the
// union (2048 + 1024 * 15 / 16); with it 1504 are seen.
TEST(Cpu, ItsGeometryComputesFewKeysThatNobodySees) {
  const Extent extent{.heads = 16, .kv_heads = 16, .len_q = 32768, .len_k = 32768};
  for (const core::DType dtype : {core::DType::kFloat32, core::DType::kBFloat16}) {
    for (const bool causal : {false, true}) {
      const Plan plan =
          compile(Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16}, {.causal = causal}), extent,
                  engine::cpu::geometry(dtype, 64, causal, Direction::kForward));
      const double keys = count(plan.view(), extent).computed_per_row();
      if (causal) {
        EXPECT_LE(keys, 1640);
      } else {
        EXPECT_EQ(keys, 3008);
      }
    }
  }
}

// The plan's price is what the engine multiplies, also where the diagonal crosses a tile.
TEST(Cpu, MultipliesWhatThePlanCounts) {
  constexpr int64_t kLen = 384, kDim = 32;
  const std::vector<float> values(kLen * kDim, 0.5f);  // of any dtype: no value is looked at
  std::vector<float> out(kLen * kDim), lse(kLen);
  const Pattern window = Pattern::block_sparse({{1, SlidingWindow{.left = 96}}}, true);
  // 32 rows at a time see their own 32 columns and the 96 before.
  const int64_t window_pairs = 32 * 128 * (kLen / 32) - 32 * (96 + 64 + 32);
  struct Wanted {
    Pattern pattern;
    int64_t pairs;
  };
  const Wanted all[] = {{Pattern::dilated({kLen}, {1}), kLen * kLen},
                        {Pattern::dilated({kLen}, {1}, {.causal = true}), 32 * (32 + kLen) * (kLen / 32) / 2},
                        {window, window_pairs}};
  for (const core::DType dtype : {core::DType::kFloat32, core::DType::kBFloat16}) {
    for (const auto& [pattern, pairs] : all) {
      const Extent extent{.len_q = kLen, .len_k = kLen};
      const Plan plan =
          compile(pattern, extent, engine::cpu::geometry(dtype, kDim, pattern.causal(), Direction::kForward));
      engine::ForwardProblem p;
      p.dtype = dtype;
      p.batch = p.heads = p.kv_heads = 1;
      p.len_q = p.len_k = kLen;
      p.dim = kDim;
      p.q = p.k = p.v = {values.data(), 0, kDim, 0};
      p.out = {out.data(), 0, kDim, 0};
      p.lse = lse.data();
      const PairsGemm gemm;
      kCpu.forward(p, plan.view(), threads(1, &gemm));
      EXPECT_EQ(count(plan.view(), extent).computed_pairs, pairs);
      EXPECT_EQ(gemm.multiplications, 2 * kDim * pairs);
    }
  }
}

// Bits, so that NaN equals itself.
bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

TEST(Cpu, RepeatsAreBitwiseEqual) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Case c = make_case(choose(seed, {{kDType, 1 + static_cast<int>(seed % 3)}}), seed);
    for (const int count : {1, 3}) {
      const Results a = run_case(kCpu, c, threads(count));
      const Results b = run_case(kCpu, c, threads(count));
      EXPECT_TRUE(same_bits(a.out, b.out) && same_bits(a.lse, b.lse) && same_bits(a.dq, b.dq) &&
                  same_bits(a.dk, b.dk) && same_bits(a.dv, b.dv))
          << c.words();
    }
  }
}

// Changing k[p] and v[p], even to NaN, moves no query before p beyond its own tile, and a finite change none at all.
TEST(Cpu, CausalLeakProbe) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Case c = make_case(choose(seed, {{kDType, 1 + static_cast<int>(seed % 3)},
                                     {kCausal, 1},
                                     {kStart, 0},
                                     {kDocuments, 0},
                                     {kLength, 6},
                                     {kDropoutP, 0}}),
                       seed, Poison::kNone);
    const oracle::Options& o = c.options;
    const Results before = run_case(kCpu, c, threads(2));
    const int64_t p = static_cast<int64_t>(seed * 13) % o.len_k;
    const int64_t row = o.kv_heads * o.dim;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (int64_t i = 0; i < row; ++i) {
        c.k[(b * o.len_k + p) * row + i] = rounded(3.5, c.dtype);
        c.v[(b * o.len_k + p) * row + i] = rounded(-9.25, c.dtype);
      }
    }
    const Results after = run_case(kCpu, c, threads(2));
    const int64_t out_row = o.heads * o.dim;
    bool later_moved = false;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (int64_t i = 0; i < o.len_q; ++i) {
        for (int64_t x = 0; x < out_row; ++x) {
          const size_t at = static_cast<size_t>((b * o.len_q + i) * out_row + x);
          if (i < p) {
            ASSERT_EQ(before.out[at], after.out[at]) << c.words();
          } else {
            later_moved = later_moved || before.out[at] != after.out[at];
          }
        }
      }
    }
    const oracle::Sight sight(o, 0, 0);
    if (sight.multiplicity(p, p) > 0) {
      EXPECT_TRUE(later_moved) << c.words();
    }
  }
}

// A non-finite key reaches exactly the rows that attend to it.
TEST(Cpu, NanKeyReachesItsRowsOnly) {
  const PairsGemm gemm;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Case c = make_case(choose(seed, {{kDType, 1 + static_cast<int>(seed % 3)}, {kLength, 6}, {kStart, 0}}), seed,
                       Poison::kNone);
    const oracle::Options& o = c.options;
    const int64_t p = static_cast<int64_t>(seed * 29) % o.len_k;
    for (int64_t j = 0; j < o.kv_heads; ++j) c.k[(p * o.kv_heads + j) * o.dim] = std::nan("");
    const Results r = run_case(kCpu, c, threads(1, seed % 2 ? &gemm : nullptr));
    const int64_t queries = o.heads / o.kv_heads;
    for (int64_t h = 0; h < o.heads; ++h) {
      const oracle::Sight sight(o, 0, h / queries);
      for (int64_t i = 0; i < o.len_q; ++i) {
        const bool hit = sight.multiplicity(i, p) > 0;
        ASSERT_EQ(std::isnan(r.lse[h * o.len_q + i]), hit) << "head " << h << " query " << i << "\n" << c.words();
        ASSERT_EQ(std::isnan(r.out[(i * o.heads + h) * o.dim]), hit) << "head " << h << " query " << i << "\n"
                                                                     << c.words();
      }
    }
  }
}

// Every width, beside plain loops: what stands behind the columns of B, in A behind its rows and in C is not touched.
TEST(Cpu, PortableProductOfEveryShape) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const float nan = std::nanf("");
  for (const int64_t m : {1, 2, 4, 5, 12, 13, 29}) {
    for (int64_t n = 1; n <= 67; ++n) {
      for (const int64_t k : {0, 1, 7, 32}) {
        for (const bool accumulate : {false, true}) {
          const int64_t lda = k + 1, ldb = n + 3, ldc = n + 2;
          // Whole rows but the last, which ends with its last column: what is behind the vectors is not ours.
          std::vector<float> a(static_cast<size_t>(m * lda), nan), b(static_cast<size_t>(k * ldb), nan);
          std::vector<float> c(static_cast<size_t>((m - 1) * ldc + n), 0.25f);
          if (k > 0) b.resize(static_cast<size_t>((k - 1) * ldb + n));
          std::vector<double> expected(c.begin(), c.end());
          for (int64_t r = 0; r < m; ++r)
            for (int64_t i = 0; i < k; ++i) a[static_cast<size_t>(r * lda + i)] = normal(random);
          for (int64_t i = 0; i < k; ++i)
            for (int64_t j = 0; j < n; ++j) b[static_cast<size_t>(i * ldb + j)] = normal(random);
          for (int64_t r = 0; r < m; ++r) {
            for (int64_t j = 0; j < n; ++j) {
              double sum = accumulate ? 0.25 : 0.0;
              for (int64_t i = 0; i < k; ++i)
                sum += double{a[static_cast<size_t>(r * lda + i)]} * double{b[static_cast<size_t>(i * ldb + j)]};
              expected[static_cast<size_t>(r * ldc + j)] = sum;
            }
          }
          engine::cpu::multiply(m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc, accumulate);
          for (size_t i = 0; i < c.size(); ++i)
            ASSERT_NEAR(c[i], expected[i], 2e-5)
                << m << " x " << n << " x " << k << " accumulate " << accumulate << " at " << i;
        }
      }
    }
  }
}

// The product with B as it lies: every sum, and nothing behind C's columns.
TEST(Cpu, ProductWithTheRowsOfB) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (const int64_t m : {1, 3, 8}) {
    for (const int64_t n : {4, 32, 128}) {
      for (const int64_t k : {16, 64, 208}) {
        const int64_t lda = k + 1, ldb = k + 2, ldc = n + 1;
        std::vector<float> a(static_cast<size_t>(m * lda)), b(static_cast<size_t>(n * ldb));
        for (float& x : a) x = normal(random);
        for (float& x : b) x = normal(random);
        std::vector<float> c(static_cast<size_t>(m * ldc), 0.25f);
        engine::cpu::multiply_transposed(m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc);
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0;
            for (int64_t i = 0; i < k; ++i)
              sum += double{a[static_cast<size_t>(r * lda + i)]} * double{b[static_cast<size_t>(j * ldb + i)]};
            ASSERT_NEAR(c[static_cast<size_t>(r * ldc + j)], sum, 1e-4) << m << " x " << n << " x " << k;
          }
          EXPECT_EQ(c[static_cast<size_t>(r * ldc + n)], 0.25f);
        }
      }
    }
  }
}

TEST(Cpu, RefusesFloat64AndForeignPlans) {
  engine::ForwardProblem p;
  p.dtype = core::DType::kFloat64;
  p.dim = 8;
  EXPECT_FALSE(engine::cpu::capability(p).yes);
  p.dtype = core::DType::kFloat32;
  p.float32_results = true;
  EXPECT_TRUE(engine::cpu::capability(p).yes);
  p.dtype = core::DType::kBFloat16;
  EXPECT_FALSE(engine::cpu::capability(p).yes);
  p.float32_results = false;
  EXPECT_TRUE(engine::cpu::capability(p).yes);
  p.dtype = core::DType::kFloat32;
  Extent e;
  e.len_q = e.len_k = 4;
  p.batch = p.heads = p.kv_heads = 1;
  p.len_q = p.len_k = 4;
  const Plan transposed = compile(Pattern::dilated({4}, {1}), e, {}, Direction::kTransposed);
  EXPECT_THROW(engine::cpu::forward(p, transposed.view(), {}), Error);
}

}  // namespace
}  // namespace longstride::test
