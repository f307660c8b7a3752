// What must hold on the device whatever the numbers are: repeats bitwise equal, no causal leak, a NaN key reaches its rows
// only, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/cuda/sm90/sm90.h"
#include "longstride/error.h"
#include "test/engine/cuda/staging.h"

namespace longstride::test {
namespace {

using core::DType;

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0);
}

Case wide_case(uint64_t seed, std::initializer_list<std::pair<Factor, int>> set) {
  Choice choice = random_choice(seed);
  for (const auto& [factor, level] : set) choice[factor] = level;
  return make_case(choice, seed, Poison::kNone, [&](DType& dtype, oracle::Options& o) {
    dtype = seed % 2 ? DType::kBFloat16 : DType::kFloat16;
    o.dim = seed % 4 < 2 ? 64 : 128;
  });
}

TEST(CudaProperties, HundredRepeatsAreBitwiseEqual) {
  const Engine engine = staged_sm90(true);
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const Case c = wide_case(seed, {{kLength, 6}, {kCausal, static_cast<int>(seed % 2)}});
    const Results first = run_case(engine, c);
    for (int repeat = 1; repeat < 100; ++repeat) {
      const Results again = run_case(engine, c);
      ASSERT_TRUE(same_bits(first.out, again.out) && same_bits(first.lse, again.lse) && same_bits(first.dq, again.dq) &&
                  same_bits(first.dk, again.dk) && same_bits(first.dv, again.dv))
          << c.words();
    }
  }
}

// Changing k[p] and v[p] moves no query before p.
TEST(CudaProperties, CausalLeakProbe) {
  const Engine engine = staged_sm90();
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Case c = wide_case(seed, {{kCausal, 1}, {kStart, 0}, {kDocuments, 0}, {kLength, 6}, {kDropoutP, 0}});
    const oracle::Options& o = c.options;
    const Results before = run_case(engine, c);
    const int64_t p = static_cast<int64_t>(seed * 13) % o.len_k, row = o.kv_heads * o.dim;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (int64_t i = 0; i < row; ++i) {
        c.k[(b * o.len_k + p) * row + i] = 3.5;
        c.v[(b * o.len_k + p) * row + i] = -9.25;
      }
    }
    const Results after = run_case(engine, c);
    bool later_moved = false;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (int64_t i = 0; i < o.len_q; ++i) {
        for (int64_t x = 0; x < o.heads * o.dim; ++x) {
          const size_t at = static_cast<size_t>((b * o.len_q + i) * o.heads * o.dim + x);
          if (i < p) {
            ASSERT_EQ(before.out[at], after.out[at]) << c.words();
          }
          later_moved = later_moved || (i >= p && before.out[at] != after.out[at]);
        }
      }
    }
    if (oracle::Sight(o, 0, 0).multiplicity(p, p) > 0) {
      EXPECT_TRUE(later_moved) << c.words();
    }
  }
}

TEST(CudaProperties, NanKeyReachesItsRowsOnly) {
  const Engine engine = staged_sm90();
  for (uint64_t seed = 0; seed < 12; ++seed) {
    Case c = wide_case(seed, {{kLength, 6}, {kStart, 0}});
    const oracle::Options& o = c.options;
    const int64_t p = static_cast<int64_t>(seed * 29) % o.len_k;
    for (int64_t j = 0; j < o.kv_heads; ++j) c.k[(p * o.kv_heads + j) * o.dim] = std::nan("");
    const Results r = run_case(engine, c);
    for (int64_t h = 0; h < o.heads; ++h) {
      const oracle::Sight sight(o, 0, h / (o.heads / o.kv_heads));
      for (int64_t i = 0; i < o.len_q; ++i) {
        const bool hit = sight.multiplicity(i, p) > 0;
        ASSERT_EQ(std::isnan(r.lse[h * o.len_q + i]), hit) << "head " << h << " query " << i << "\n" << c.words();
        ASSERT_EQ(std::isnan(r.out[(i * o.heads + h) * o.dim]), hit)
            << "head " << h << " query " << i << "\n"
            << c.words();
      }
    }
  }
}

}  // namespace
}  // namespace longstride::test
