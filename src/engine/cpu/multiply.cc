// The portable product (kernels.h): register tiles of a few rows by two vectors, B read as it is packed; the last
// columns by one vector or by a part of one. Used when the caller hands in no MicroGemm, or one that does not take the
// cells.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/multiply.cc"
#include <hwy/foreach_target.h>
// foreach_target comes first: it includes this file once per instruction set.
#include <hwy/highway.h>

#include <cstring>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longstride::engine::cpu::HWY_NAMESPACE {

// Rows of a register tile: with two vectors a row, 32 registers hold 12 rows of sums, 16 hold 4.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 4;
#endif

// How the last vector of a tile's rows is moved. All of it:
struct Whole {
  HWY_INLINE Vector load(const float* from) const { return hn::LoadU(Floats(), from); }
  HWY_INLINE void store(Vector x, float* to) const { hn::StoreU(x, Floats(), to); }
};

// ... or its first `count` floats; what stands behind them is neither read nor written.
struct Part {
  int64_t count;
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
  HWY_INLINE Vector load(const float* from) const {
    const Floats d;
    return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(count)), d, from);
  }
  HWY_INLINE void store(Vector x, float* to) const {
    const Floats d;
    hn::BlendedStore(x, hn::FirstN(d, static_cast<size_t>(count)), d, to);
  }
#else
  // Masked loads of these instruction sets may read the whole vector.
  HWY_INLINE Vector load(const float* from) const {
    float part[kLanes] = {};
    std::memcpy(part, from, static_cast<size_t>(count) * sizeof(float));
    return hn::LoadU(Floats(), part);
  }
  HWY_INLINE void store(Vector x, float* to) const {
    float part[kLanes];
    hn::StoreU(x, Floats(), part);
    std::memcpy(to, part, static_cast<size_t>(count) * sizeof(float));
  }
#endif
};

// kRows rows by kVectors vectors, of which `last` moves the last. The loops over rows are unrolled by a pragma: -O2
// alone would leave the sums in memory.
template <int kRows, int kVectors, class Last>
HWY_INLINE void tile(Last last, int64_t k, const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b,
                     int64_t ldb, float* HWY_RESTRICT c, int64_t ldc, bool accumulate) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = (kVectors - 1) * lanes;
  Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (kVectors > 1) sums[r][0] = accumulate ? hn::LoadU(d, c + r * ldc) : hn::Zero(d);
    sums[r][kVectors - 1] = accumulate ? last.load(c + r * ldc + end) : hn::Zero(d);
  }
  for (int64_t i = 0; i < k; ++i) {
    const Vector b0 = kVectors > 1 ? hn::LoadU(d, b + i * ldb) : hn::Zero(d);
    const Vector b1 = last.load(b + i * ldb + end);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector x = hn::Set(d, a[r * lda + i]);
      if (kVectors > 1) sums[r][0] = hn::MulAdd(x, b0, sums[r][0]);
      sums[r][kVectors - 1] = hn::MulAdd(x, b1, sums[r][kVectors - 1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if (kVectors > 1) hn::StoreU(sums[r][0], d, c + r * ldc);
    last.store(sums[r][kVectors - 1], c + r * ldc + end);
  }
}

// All m rows of as many columns as kVectors vectors have.
template <int kVectors, class Last>
HWY_INLINE void columns(Last last, int64_t m, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                        float* c, int64_t ldc, bool accumulate) {
  int64_t r = 0;
  for (; r + kTileRows <= m; r += kTileRows)
    tile<kTileRows, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
  for (; r + 4 <= m; r += 4) tile<4, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
  for (; r < m; ++r) tile<1, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
}

void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  int64_t j = 0;
  for (; j + 2 * lanes <= n; j += 2 * lanes) columns<2>(Whole(), m, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
  const int64_t rest = n - j;
  if (rest > lanes) {
    columns<2>(Part{rest - lanes}, m, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
  } else if (rest == lanes) {
    columns<1>(Whole(), m, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
  } else if (rest > 0) {
    columns<1>(Part{rest}, m, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
  }
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longstride::engine::cpu {
HWY_EXPORT(multiply);
void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(multiply)(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}
}  // namespace longstride::engine::cpu
#endif
