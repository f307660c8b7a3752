// The portable product (kernels.h): register tiles of a few rows by two vectors, B read as it is packed. Used when the
// caller hands in no MicroGemm, or one that does not take the cells.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/multiply.cc"
#include <hwy/foreach_target.h>
// foreach_target comes first: it includes this file once per instruction set.
#include <hwy/highway.h>

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

template <int kRows>
HWY_INLINE void tile(int64_t k, const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT b, int64_t ldb,
                     float* HWY_RESTRICT c, int64_t ldc, bool accumulate) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  Vector sums[kRows][2];
  for (int r = 0; r < kRows; ++r) {
    sums[r][0] = accumulate ? hn::LoadU(d, c + r * ldc) : hn::Zero(d);
    sums[r][1] = accumulate ? hn::LoadU(d, c + r * ldc + lanes) : hn::Zero(d);
  }
  for (int64_t i = 0; i < k; ++i) {
    const Vector b0 = hn::LoadU(d, b + i * ldb);
    const Vector b1 = hn::LoadU(d, b + i * ldb + lanes);
    for (int r = 0; r < kRows; ++r) {
      const Vector x = hn::Set(d, a[r * lda + i]);
      sums[r][0] = hn::MulAdd(x, b0, sums[r][0]);
      sums[r][1] = hn::MulAdd(x, b1, sums[r][1]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    hn::StoreU(sums[r][0], d, c + r * ldc);
    hn::StoreU(sums[r][1], d, c + r * ldc + lanes);
  }
}

void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  const Floats d;
  const int64_t width = 2 * static_cast<int64_t>(hn::Lanes(d));
  const int64_t wide = n / width * width;
  for (int64_t j = 0; j < wide; j += width) {
    int64_t r = 0;
    for (; r + kTileRows <= m; r += kTileRows) {
      tile<kTileRows>(k, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc, accumulate);
    }
    for (; r + 4 <= m; r += 4) tile<4>(k, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc, accumulate);
    for (; r < m; ++r) tile<1>(k, a + r * lda, lda, b + j, ldb, c + r * ldc + j, ldc, accumulate);
  }
  if (wide == n) return;
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t j = wide; j < n; ++j) {
      float sum = accumulate ? c[r * ldc + j] : 0.0f;
      for (int64_t i = 0; i < k; ++i) sum += a[r * lda + i] * b[i * ldb + j];
      c[r * ldc + j] = sum;
    }
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
