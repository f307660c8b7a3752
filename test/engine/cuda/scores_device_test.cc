// Scores of every size on the device against the oracle, forward and backward: where a score's rounding in float32 is
// larger than the whole softmax, what is subtracted must be what was added.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "test/engine/compare.h"
#include "test/engine/cuda/staging.h"
#include "test/engine/peer.h"

namespace longstride::test {
namespace {

using core::DType;

struct Kind {
  DType dtype;
  int64_t dim;
  bool portable = false;  // sm80
  bool deterministic = false;
  bool short_tiles = false;  // the forward is that of tiles of few columns

  Engine engine() const { return portable ? staged_sm80(deterministic) : staged_sm90(deterministic); }
  Results run(const Case& c) const {
    if (short_tiles) {
      const auto plan = [&](Direction d) {
        Geometry g = engine::cuda::sm90::backward_geometry(dtype, d);
        g.merge_columns = 1;
        return compile(c.pattern(), c.extent(), g, d);
      };
      return run_case(staged_sm90_tiles(true), c, plan(Direction::kForward), plan(Direction::kTransposed));
    }
    if (!portable) return run_sm90(c, deterministic, [](Geometry& g) { g.merge_columns = 1; });
    const auto plan = [&](Direction d) {
      Geometry g = engine::cuda::sm80::geometry(dtype, dim, d);
      g.merge_columns = 1;  // merging is cheap: plans with partial levels
      return compile(c.pattern(), c.extent(), g, d);
    };
    return run_case(engine(), c, plan(Direction::kForward), plan(Direction::kTransposed));
  }
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << (kind.portable ? "sm80 " : "sm90 ") << core::name(kind.dtype) << " dim " << kind.dim;
}

std::string name_of(const testing::TestParamInfo<Kind>& info) {
  return std::string(info.param.portable ? "sm80_" : "sm90_") + core::name(info.param.dtype) + "_" +
         std::to_string(info.param.dim) + (info.param.deterministic ? "_deterministic" : "") +
         (info.param.short_tiles ? "_short_tiles" : "");
}

constexpr double kScales[] = {-0.3, 3, 40, 1e3, 1e4, -1e4, 3e5, 1e7, 1e8, 1e9, -1e9, 1e12, 1e20, 1e30};

// Whether some query finds its greatest score so far twice, whichever way it is turned. An lse of float32 does not hold
// the logarithm of 2 beside a large score.
bool has_ties(const Case& c) {
  const oracle::Options& o = c.options;
  for (int64_t i = 0; i < o.len_q * o.heads; ++i) {
    double most = 0, least = 0;
    for (int64_t p = 0; p < o.len_k; ++p) {
      const double score = oracle::detail::dot(&c.q[i * o.dim], &c.k[(p * o.kv_heads) * o.dim], o.dim);
      if (p > 0 && (score == most || score == least)) return true;
      most = p > 0 ? std::max(most, score) : score;
      least = p > 0 ? std::min(least, score) : score;
    }
  }
  return false;
}

Case case_of(const Kind& kind, double scale, uint64_t seed, const std::function<void(oracle::Options&)>& set = {}) {
  Choice choice(kFactors, 0);
  choice[kLayout] = 3;
  Case c = make_case(choice, seed, Poison::kNone, [&](DType& dtype, oracle::Options& o) {
    dtype = kind.dtype;
    o.batch = 1;
    o.heads = 2;
    o.kv_heads = 1;
    o.dim = kind.dim;
    o.len_q = o.len_k = 150;
    o.causal = seed % 2;
    o.segments = {o.len_k};
    o.rates = {1};
    o.scale = scale;
    if (set) set(o);
  });
  // Multiples of 1/32: every product and sum is exact, so that what is rounded is rounded after the score.
  for (std::vector<double>* x : {&c.q, &c.k})
    for (double& value : *x) value = std::clamp(std::round(value * 32) / 32, -3.0, 3.0);
  return has_ties(c) && seed < 1000000 ? case_of(kind, scale, seed + 1000, set) : c;
}

// Everything beside the oracle, as against_oracle() does, but that gradients are granted what the rounding of lse does
// to their probabilities: an lse of float32 is what they are made from. `weights`: what it loses of a weight, at most.
// In one group nothing is granted from 2^30 on, since a row's greatest score is alone there.
void check(const Case& c, const Results& r, double weights = 0) {
  const Peer peer = peer_results(c);
  const oracle::Forward f = c.forward();
  const oracle::Backward g = c.backward();
  double top = 0;
  for (const double lse : f.lse)
    if (std::isfinite(lse)) top = std::max(top, std::abs(lse));
  const double of_lse = weights > 0 || top < 0x1p30 ? std::min(1 + weights, top * 0x1p-23) : 0;
  const auto compare = [&](const char* name, const std::vector<double>& actual, const std::vector<double>& expected,
                           const std::vector<double>& plain, double terms, DType dtype, double slack) {
    double granted = (12 * 0x1p-24 + slack) * std::max(terms, 1.0);
    for (size_t i = 0; i < plain.size(); ++i)
      if (std::isfinite(plain[i]) && std::isfinite(expected[i]))
        granted = std::max(granted, std::abs(plain[i] - expected[i]));
    EXPECT_EQ(difference(name, actual, expected, roundoff(dtype), granted), "") << c.words();
  };
  const TermSizes& size = peer.sizes;
  compare("out", r.out, f.out, peer.forward.out, size.out, c.dtype, 0);
  compare("lse", r.lse, f.lse, peer.forward.lse, size.lse, DType::kFloat32, 0);
  compare("dq", r.dq, g.dq, peer.backward.dq, size.dq, c.dtype, of_lse);
  compare("dk", r.dk, g.dk, peer.backward.dk, size.dk, c.dtype, of_lse);
  compare("dv", r.dv, g.dv, peer.backward.dv, size.dv, c.dtype, of_lse);
  if (!r.gates || r.gates->empty()) return;
  std::vector<double> gates;
  double terms = 0;
  for (const oracle::GateGradient& gate : oracle::gate_gradients(c.options, c.q, c.k, c.v, c.d_out, c.d_lse,
                                                                 c.options.blocks[0].block_size, gate_cells(c))) {
    gates.push_back(gate.value);
    terms = std::max(terms, gate.terms);
  }
  compare("gates", *r.gates, gates, {}, terms, DType::kFloat32, std::max(roundoff(c.dtype), of_lse));
}

class CudaScores : public testing::TestWithParam<Kind> {
 protected:
  // float16 holds no dQ of larger scales.
  static bool holds(double scale) { return GetParam().dtype != DType::kFloat16 || std::abs(scale) <= 1e4; }
};

TEST_P(CudaScores, OfOneGroup) {
  uint64_t seed = 40;
  for (const double scale : kScales) {
    const Case c = case_of(GetParam(), scale, ++seed);
    SCOPED_TRACE(scale);
    if (holds(scale)) check(c, GetParam().run(c));
  }
}

// Weights, partial levels merged, phantoms.
TEST_P(CudaScores, OfGroups) {
  uint64_t seed = 60;
  for (const double scale : kScales) {
    for (const bool zero_keys : {false, true}) {
      const Case c = case_of(GetParam(), scale, ++seed, [&](oracle::Options& o) {
        o.len_q = o.len_k = 300;
        o.segments = {64, 128, 256, 512};
        o.rates = {1, 2, 4, 3};
        o.zero_keys = zero_keys;
        if (zero_keys) o.causal = false;
      });
      SCOPED_TRACE(scale);
      if (holds(scale)) check(c, GetParam().run(c), 4);
    }
  }
}

// Gates are made by instructions of their own.
TEST_P(CudaScores, OfBlocksWithGates) {
  uint64_t seed = 80;
  for (const double scale : kScales) {
    const Case c = case_of(GetParam(), scale, ++seed, [&](oracle::Options& o) {
      o.segments.clear();
      o.rates.clear();
      oracle::BlockRule list{.kind = oracle::BlockKind::kList, .block_size = 32};
      for (int64_t i = 0; i < 5; ++i) {
        list.list.push_back({-1, -1, i, i});
        list.list.push_back({-1, -1, i, i / 2});
      }
      o.blocks = {list};
    });
    SCOPED_TRACE(scale);
    if (!holds(scale)) continue;
    const Results r = GetParam().run(c);
    EXPECT_TRUE(r.gates && !r.gates->empty());
    check(c, r);
  }
}

// q = k = 1000, v = 0, 1, ..., 7: all scores of a row are 10^6, so that out is what the weights say. Row 0 sees keys 0
// and 1 three times and the others once.
TEST_P(CudaScores, LeaveTheWeightsOfGroups) {
  Case c = case_of(GetParam(), 1.0 / static_cast<double>(GetParam().dim), 100, [](oracle::Options& o) {
    o.len_q = o.len_k = 8;
    o.heads = 1;
    o.causal = false;
    o.segments = {2, 2, 8};
    o.rates = {1, 1, 1};
  });
  std::fill(c.q.begin(), c.q.end(), 1000);
  std::fill(c.k.begin(), c.k.end(), 1000);
  for (size_t i = 0; i < c.v.size(); ++i) c.v[i] = static_cast<double>(i / GetParam().dim);
  const Results r = GetParam().run(c);
  const double unit = roundoff(c.dtype);
  for (int64_t i = 0; i < 8; ++i) {
    const double pair = 2 * (i / 2) + 0.5;  // mean of the two that are seen three times
    EXPECT_NEAR(r.out[i * GetParam().dim], (28 + 2 * 2 * pair) / 12, 16 * unit) << i;
    EXPECT_NEAR(r.lse[i], 1e6 + std::log(12), 0.0625);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, CudaScores,
    testing::Values(Kind{DType::kFloat32, 16, true}, Kind{DType::kFloat32, 64, true}, Kind{DType::kFloat32, 128, true},
                    Kind{DType::kFloat32, 256, true}, Kind{DType::kBFloat16, 64, true},
                    Kind{DType::kFloat16, 128, true}, Kind{DType::kBFloat16, 64, true, true},
                    Kind{DType::kFloat16, 128, true, true}, Kind{DType::kBFloat16, 16}, Kind{DType::kBFloat16, 48},
                    Kind{DType::kBFloat16, 64}, Kind{DType::kBFloat16, 128}, Kind{DType::kFloat16, 64},
                    Kind{DType::kFloat16, 128}, Kind{DType::kBFloat16, 256}, Kind{DType::kBFloat16, 64, false, true},
                    Kind{DType::kFloat16, 128, false, true}, Kind{DType::kFloat32, 16}, Kind{DType::kFloat32, 64},
                    Kind{DType::kFloat32, 128}, Kind{DType::kBFloat16, 64, false, false, true},
                    Kind{DType::kFloat16, 64, false, false, true}),
    name_of);

}  // namespace
}  // namespace longstride::test
