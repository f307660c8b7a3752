// What must hold on the device whatever the numbers are: repeats bitwise equal, no causal leak, a key that is not
// finite reaches its rows only, tensors of more than 2^31 elements.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "engine/cuda/sm80/sm80.h"
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
  constexpr DType kTypes[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32};
  Case c = make_case(choice, seed, Poison::kNone, [&](DType& dtype, oracle::Options& o) {
    dtype = kTypes[seed % 3];
    o.dim = seed % 4 < 2 ? 64 : 128;
  });
  c.geometry.tile_rows =
      std::min(c.geometry.tile_rows, engine::cuda::sm90::backward_geometry(c.dtype, Direction::kForward).tile_rows);
  return c;
}

TEST(CudaProperties, HundredRepeatsAreBitwiseEqual) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Engine engine = seed < 6 ? staged_sm90(true) : staged_sm80(true);
    const Case c = wide_case(seed % 6, {{kLength, 6}, {kCausal, static_cast<int>(seed % 2)}});
    const Results first = run_case(engine, c);
    for (int repeat = 1; repeat < 100; ++repeat) {
      const Results again = run_case(engine, c);
      ASSERT_TRUE(same_bits(first.out, again.out) && same_bits(first.lse, again.lse) && same_bits(first.dq, again.dq) &&
                  same_bits(first.dk, again.dk) && same_bits(first.dv, again.dv))
          << c.words();
    }
  }
}

TEST(CudaProperties, HundredForwardsOfShortTilesAreBitwiseEqual) {
  const Engine engine = staged_sm90_tiles(true);
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Case c = wide_case(seed, {{kLength, 6}, {kCausal, static_cast<int>(seed % 2)}, {kDropoutP, 0}});
    if (c.dtype == DType::kFloat32 || c.options.dim > 64) continue;
    const Results first = run_case(engine, c);
    for (int repeat = 1; repeat < 100; ++repeat) {
      const Results again = run_case(engine, c);
      ASSERT_TRUE(same_bits(first.out, again.out) && same_bits(first.lse, again.lse)) << c.words();
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

struct Kind {
  DType dtype;
  int64_t dim;
  bool portable = false;     // sm80
  bool short_tiles = false;  // sm90's kernel for tiles of few columns
};

void PrintTo(const Kind& kind, std::ostream* out) {
  *out << (kind.portable ? "sm80 " : "sm90 ") << core::name(kind.dtype) << " dim " << kind.dim
       << (kind.short_tiles ? " short tiles" : "");
}

class CudaNonFinite : public testing::TestWithParam<Kind> {};

// A key that is NaN, or infinite in one component, reaches the rows that attend to it and no other; where its score is
// minus infinity it weighs nothing.
TEST_P(CudaNonFinite, KeyReachesItsRowsOnly) {
  const Engine engine = GetParam().portable      ? staged_sm80()
                        : GetParam().short_tiles ? staged_sm90_tiles(true)
                                                 : staged_sm90();
  int64_t rows_hit = 0, rows_spared = 0, weighing_nothing = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      Choice choice = random_choice(seed);
      choice[kLength] = 6;
      choice[kStart] = choice[kDropoutP] = choice[kScale] = 0;
      Case c = make_case(choice, seed, Poison::kNone, [](DType& dtype, oracle::Options& o) {
        dtype = GetParam().dtype;
        o.dim = GetParam().dim;
      });
      const Geometry widest = GetParam().portable
                                  ? engine::cuda::sm80::geometry(c.dtype, GetParam().dim, Direction::kForward)
                                  : engine::cuda::sm90::backward_geometry(c.dtype, Direction::kForward);
      c.geometry.tile_rows = std::min(c.geometry.tile_rows, widest.tile_rows);
      const oracle::Options& o = c.options;
      const int64_t p = static_cast<int64_t>(seed * 29) % o.len_k;
      for (int64_t j = 0; j < o.kv_heads; ++j) c.k[(p * o.kv_heads + j) * o.dim] = value;
      const Results r = run_case(engine, c);
      const oracle::Forward expected = c.forward();
      for (int64_t h = 0; h < o.heads; ++h) {
        const oracle::Sight sight(o, 0, h / (o.heads / o.kv_heads));
        for (int64_t i = 0; i < o.len_q; ++i) {
          SCOPED_TRACE(testing::Message() << value << ", head " << h << " query " << i << "\n" << c.words());
          const int64_t first = (i * o.heads + h) * o.dim;
          const bool seen = sight.multiplicity(i, p) > 0;
          const bool hit = seen && std::isnan(expected.out[first]);
          ASSERT_EQ(!std::isfinite(r.lse[h * o.len_q + i]), hit || expected.lse[h * o.len_q + i] == -HUGE_VAL);
          ASSERT_EQ(std::isnan(r.out[first]), hit);
          (hit ? rows_hit : seen ? weighing_nothing : rows_spared) += 1;
        }
      }
    }
  }
  EXPECT_GT(rows_hit, 100);
  EXPECT_GT(rows_spared, 100);
  EXPECT_GT(weighing_nothing, 100);
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaNonFinite,
                         testing::Values(Kind{DType::kBFloat16, 64}, Kind{DType::kFloat16, 128},
                                         Kind{DType::kBFloat16, 256}, Kind{DType::kFloat32, 16},
                                         Kind{DType::kFloat32, 64}, Kind{DType::kFloat32, 128},
                                         Kind{DType::kFloat32, 16, true}, Kind{DType::kFloat32, 64, true},
                                         Kind{DType::kFloat32, 128, true}, Kind{DType::kFloat32, 256, true},
                                         Kind{DType::kBFloat16, 64, true}, Kind{DType::kFloat16, 128, true},
                                         Kind{DType::kBFloat16, 64, false, true},
                                         Kind{DType::kFloat16, 48, false, true}),
                         [](const testing::TestParamInfo<Kind>& info) {
                           return std::string(info.param.portable ? "sm80_" : "sm90_") + core::name(info.param.dtype) +
                                  "_" + std::to_string(info.param.dim) + (info.param.short_tiles ? "_short_tiles" : "");
                         });

// [1, len, heads, dim] on the device, positions 2^23 elements apart, NaN in between.
class FarApart {
 public:
  static constexpr int64_t kStride = 1 << 23;
  FarApart(int64_t len, int64_t heads, int64_t dim) : len_(len), row_bytes_(heads * dim * 2), dim_(dim) {
    const size_t bytes = static_cast<size_t>(len) * kStride * 2;
    if (cudaMalloc(&data_, bytes) != cudaSuccess) throw Error("no memory for " + std::to_string(bytes) + " bytes");
    cudaMemset(data_, 0xFF, bytes);
  }
  FarApart(int64_t len, int64_t heads, int64_t dim, const std::vector<uint16_t>& values) : FarApart(len, heads, dim) {
    cudaMemcpy2D(data_, kStride * 2, values.data(), row_bytes_, row_bytes_, len_, cudaMemcpyHostToDevice);
  }
  ~FarApart() { cudaFree(data_); }
  FarApart(const FarApart&) = delete;
  engine::ConstTensorRef read() const { return {data_, len_ * kStride, kStride, dim_}; }
  engine::TensorRef write() const { return {data_, len_ * kStride, kStride, dim_}; }
  std::vector<uint16_t> values() const {
    std::vector<uint16_t> all(len_ * row_bytes_ / 2);
    cudaMemcpy2D(all.data(), row_bytes_, data_, kStride * 2, row_bytes_, len_, cudaMemcpyDeviceToHost);
    return all;
  }

 private:
  void* data_ = nullptr;
  int64_t len_, row_bytes_, dim_;
};

std::vector<uint16_t> bits(const std::vector<double>& values) {
  std::vector<uint16_t> all;
  for (const double x : values) all.push_back(core::to_bfloat16(static_cast<float>(x)).bits);
  return all;
}

// 300 positions 2^23 apart reach beyond 2^31 elements; the results are those of the same tensors packed, bit for bit.
TEST(CudaProperties, TensorsBeyondTwoToThe31Elements) {
  constexpr int64_t kLen = 300, kDim = 64;
  Choice choice(kFactors, 0);
  const Case c = make_case(choice, 31, Poison::kNone, [](DType& dtype, oracle::Options& o) {
    dtype = DType::kBFloat16;
    o.batch = 1;
    o.heads = 2;
    o.kv_heads = 1;
    o.dim = kDim;
    o.len_q = o.len_k = kLen;
    o.causal = true;
    o.segments = {64, 256, 512};
    o.rates = {1, 2, 4};
  });
  const auto plan = [&](Direction d) { return compile(c.pattern(), c.extent(), engine::cuda::sm90::geometry(d), d); };
  const Plan forward = plan(Direction::kForward), transposed = plan(Direction::kTransposed);
  const Results packed = run_case(staged_sm90(true), c, forward, transposed);
  const FarApart q(kLen, 2, kDim, bits(c.q)), k(kLen, 1, kDim, bits(c.k)), v(kLen, 1, kDim, bits(c.v)),
      d_out(kLen, 2, kDim, bits(c.d_out)), out(kLen, 2, kDim), dq(kLen, 2, kDim), dk(kLen, 1, kDim), dv(kLen, 1, kDim);
  void* lse = nullptr;
  ASSERT_EQ(cudaMalloc(&lse, 2 * kLen * sizeof(float)), cudaSuccess);
  engine::ForwardProblem p;
  p.dtype = c.dtype;
  p.batch = 1;
  p.heads = 2;
  p.kv_heads = 1;
  p.len_q = p.len_k = kLen;
  p.dim = kDim;
  p.scale = c.scale();
  p.deterministic = true;
  p.q = q.read();
  p.k = k.read();
  p.v = v.read();
  p.out = out.write();
  p.lse = lse;
  engine::BackwardProblem g{p};
  g.out = out.read();
  g.lse = lse;
  g.d_out = d_out.read();
  g.dq = dq.write();
  g.dk = dk.write();
  g.dv = dv.write();
  const engine::cuda::DevicePlan on_device(forward.view(), 1, 1, 2), turned(transposed.view(), 1, 1, 1);
  const engine::Workspace w = poisoned_workspace();
  engine::cuda::sm90::forward(p, on_device, w, nullptr);
  engine::cuda::sm90::backward(g, {.transposed = turned, .forward = &on_device}, w, nullptr);
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  cudaFree(lse);
  EXPECT_EQ(out.values(), bits(packed.out));
  EXPECT_EQ(dq.values(), bits(packed.dq));
  EXPECT_EQ(dk.values(), bits(packed.dk));
  EXPECT_EQ(dv.values(), bits(packed.dv));
}

}  // namespace
}  // namespace longstride::test
