// The portable product (kernels.h): register tiles of a few rows by one to three vectors, B read as it is packed; of
// the last vector perhaps a part. Used when the caller hands in no MicroGemm, or one that does not take the
// cells. Beside it the product with rows of B as they lie, for a few rows of A.
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

// Rows of a register tile, so that its sums, one row of B and one entry of A fit the registers: 32 of them, or 16.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr int tile_rows(int vectors) { return vectors == 1 ? 16 : 24 / vectors; }
#else
constexpr int tile_rows(int vectors) { return vectors == 1 ? 8 : 4; }
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
  static_assert(kVectors <= 3);
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t end = (kVectors - 1) * lanes;
  Vector first[kRows], second[kRows], sums[kRows];  // what a narrower tile lacks is never touched
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kVectors > 1) first[r] = accumulate ? hn::LoadU(d, c + r * ldc) : hn::Zero(d);
    if constexpr (kVectors > 2) second[r] = accumulate ? hn::LoadU(d, c + r * ldc + lanes) : hn::Zero(d);
    sums[r] = accumulate ? last.load(c + r * ldc + end) : hn::Zero(d);
  }
  for (int64_t i = 0; i < k; ++i, b += ldb) {
    const Vector b0 = kVectors > 1 ? hn::LoadU(d, b) : hn::Zero(d);
    const Vector b1 = kVectors > 2 ? hn::LoadU(d, b + lanes) : hn::Zero(d);
    const Vector b_last = last.load(b + end);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector x = hn::Set(d, a[r * lda + i]);
      if constexpr (kVectors > 1) first[r] = hn::MulAdd(x, b0, first[r]);
      if constexpr (kVectors > 2) second[r] = hn::MulAdd(x, b1, second[r]);
      sums[r] = hn::MulAdd(x, b_last, sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kVectors > 1) hn::StoreU(first[r], d, c + r * ldc);
    if constexpr (kVectors > 2) hn::StoreU(second[r], d, c + r * ldc + lanes);
    last.store(sums[r], c + r * ldc + end);
  }
}

// All m rows of as many columns as kVectors vectors have.
template <int kVectors, class Last>
HWY_INLINE void columns(Last last, int64_t m, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                        float* c, int64_t ldc, bool accumulate) {
  constexpr int kRows = tile_rows(kVectors);
  int64_t r = 0;
  for (; r + kRows <= m; r += kRows)
    tile<kRows, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
  for (; r + 4 <= m; r += 4) tile<4, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
  for (; r < m; ++r) tile<1, kVectors>(last, k, a + r * lda, lda, b, ldb, c + r * ldc, ldc, accumulate);
}

// Up to kVectors vectors of the n columns that are left; returns how many columns those were.
template <int kVectors>
HWY_INLINE int64_t take(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                        float* c, int64_t ldc, bool accumulate) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  if (n < kVectors * lanes) {
    columns<kVectors>(Part{n - (kVectors - 1) * lanes}, m, k, a, lda, b, ldb, c, ldc, accumulate);
    return n;
  }
  columns<kVectors>(Whole(), m, k, a, lda, b, ldb, c, ldc, accumulate);
  return kVectors * lanes;
}

void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  // Three vectors at a time, which ask for the fewest loads; the end in twos rather than in one.
  for (int64_t j = 0; j < n;) {
    const int64_t vectors = (n - j + lanes - 1) / lanes;
    if (vectors == 1) {
      j += take<1>(m, n - j, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    } else if (vectors == 3 || vectors > 4) {
      j += take<3>(m, n - j, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    } else {
      j += take<2>(m, n - j, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
    }
  }
}

// to[0 .. 3] = the sums of the lanes of a, b, c and d.
#if HWY_TARGET == HWY_SCALAR
HWY_INLINE void store_sums(Vector a, Vector b, Vector c, Vector d, float* to) {
  to[0] = hn::GetLane(a), to[1] = hn::GetLane(b), to[2] = hn::GetLane(c), to[3] = hn::GetLane(d);
}
#else
using FourFloats = hn::FixedTag<float, 4>;

// The sum of a vector's parts of four floats.
template <class D>
HWY_INLINE hn::Vec<FourFloats> sum_of_parts(D d, hn::Vec<D> x) {
  if constexpr (hn::MaxLanes(D()) > 4) {
    const hn::Half<D> half;
    return sum_of_parts(half, hn::Add(hn::LowerHalf(half, x), hn::UpperHalf(half, x)));
  } else {
    return x;
  }
}

HWY_INLINE void store_sums(Vector a, Vector b, Vector c, Vector d, float* to) {
  const Floats df;
  const hn::Repartition<double, Floats> dd;  // two floats
  const auto twos = [&](Vector x, Vector y) {
    return hn::BitCast(dd, hn::Add(hn::InterleaveLower(df, x, y), hn::InterleaveUpper(df, x, y)));
  };
  const auto ab = twos(a, b), cd = twos(c, d);
  const Vector parts =
      hn::Add(hn::BitCast(df, hn::InterleaveLower(dd, ab, cd)), hn::BitCast(df, hn::InterleaveUpper(dd, ab, cd)));
  hn::StoreU(sum_of_parts(df, parts), FourFloats(), to);
}
#endif

void multiply_transposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                         float* c, int64_t ldc) {
  const Floats d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t j = 0; j < n; j += 4) {
    const float* row = b + j * ldb;
    for (int64_t r = 0; r < m; ++r) {
      Vector s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
      for (int64_t i = 0; i < k; i += lanes) {
        const Vector x = hn::LoadU(d, a + r * lda + i);
        s0 = hn::MulAdd(x, hn::LoadU(d, row + i), s0);
        s1 = hn::MulAdd(x, hn::LoadU(d, row + ldb + i), s1);
        s2 = hn::MulAdd(x, hn::LoadU(d, row + 2 * ldb + i), s2);
        s3 = hn::MulAdd(x, hn::LoadU(d, row + 3 * ldb + i), s3);
      }
      store_sums(s0, s1, s2, s3, c + r * ldc + j);
    }
  }
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longstride::engine::cpu {
HWY_EXPORT(multiply);
HWY_EXPORT(multiply_transposed);
void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(multiply)(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}
void multiply_transposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                         float* c, int64_t ldc) {
  HWY_DYNAMIC_DISPATCH(multiply_transposed)(m, n, k, a, lda, b, ldb, c, ldc);
}
}  // namespace longstride::engine::cpu
#endif
