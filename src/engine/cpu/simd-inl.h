// Vector arithmetic shared by the CPU engine's kernels: 2^x and the draws of dropout. Included once per instruction
// set.
#if defined(LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#undef LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#else
#define LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstdlib>

#include "engine/cpu/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace longstride::engine::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = hn::CappedTag<float, kLanes>;
using Words = hn::RebindToUnsigned<Floats>;
using Vector = hn::Vec<Floats>;

// 2^x for x < 128 with a relative error below 3e-7; 0 below 2^-126; NaN stays NaN.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
// AVX-512 cuts x into floor and rest, and scales by a power of two, in one instruction each: 10 in place of 15 a
// vector.
HWY_INLINE Vector exp2_of(Floats d, Vector x) {
  constexpr int kRestAboveFloor = 0x01;
  const Vector f{_mm512_reduce_ps(x.raw, kRestAboveFloor)};
  // Minimax polynomial of 2^f on [0, 1], relative error 8.3e-8.
  Vector p = hn::Set(d, 0.00186713f);
  p = hn::MulAdd(p, f, hn::Set(d, 0.00901703f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.05579991f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.24016445f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.69315131f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  // True for NaN. Powers below the normal ones are zero: products with such numbers are slow on many processors.
  const __mmask16 normal = _mm512_cmp_ps_mask(x.raw, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return Vector{_mm512_maskz_scalef_ps(normal, p.raw, x.raw)};
}
#else
HWY_INLINE Vector exp2_of(Floats d, Vector x) {
  const Words du;
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum; the 127 makes it an exponent.
  const Vector magic = hn::Set(d, 12582912.0f + 127.0f);
  const Vector shifted = hn::Add(x, magic);
  const Vector f = hn::Sub(x, hn::Sub(shifted, magic));
  // Minimax polynomial of 2^f on [-1/2, 1/2], relative error 7.5e-8 before its constant was made 1.
  Vector p = hn::Set(d, 0.0013276472f);
  p = hn::MulAdd(p, f, hn::Set(d, 0.0096755413f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0555071327f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.2402211972f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.6931469671f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const Vector power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(du, shifted)));
  // A product, not a sum of exponents: NaN times anything is NaN. The select is false for NaN.
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::Mul(p, power));
}
#endif

// Rounds to bfloat16 in the upper half of each word; ties go away from zero. For results of arithmetic only: a NaN
// whose payload is all ones would wrap, and no operation makes one from bfloat16 inputs.
HWY_INLINE hn::Vec<Words> rounded_upper(Floats d, Vector x) {
  const Words du;
  (void)d;
  return hn::Add(hn::BitCast(du, x), hn::Set(du, 0x8000u));
}

// low's upper half in the lower half, high's upper half in the upper.
HWY_INLINE hn::Vec<Words> paired(hn::Vec<Words> low, hn::Vec<Words> high) {
  const Words du;
  return hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(du, 0xFFFF0000u)));
}

// words[n]: of the position first + n * stride, n in [0, count); `count` fills vectors.
HWY_INLINE void dropout_words(const DropoutChunk& at, int64_t stride, core::Side side, int64_t first, int count,
                              uint32_t* words) {
  const Words du;
  const int64_t last = first + (count - 1) * stride;
  if (first >> 32 != last >> 32) {
    for (int n = 0; n < count; ++n) words[n] = at.dropout->word(at.stream, side, first + n * stride);
    return;
  }
  const auto salt = hn::Set(du, at.salt(side, first));
  for (int n = 0; n < count; n += static_cast<int>(hn::Lanes(du))) {
    const auto step = hn::Set(du, static_cast<uint32_t>(stride));
    auto x = hn::Add(hn::Mul(hn::Iota(du, n), step), hn::Set(du, static_cast<uint32_t>(first)));
    x = hn::Xor(x, salt);
    x = hn::Mul(hn::Xor(x, hn::ShiftRight<16>(x)), hn::Set(du, 0x7FEB352Du));
    x = hn::Mul(hn::Xor(x, hn::ShiftRight<15>(x)), hn::Set(du, 0x846CA68Bu));
    hn::StoreU(hn::Xor(x, hn::ShiftRight<16>(x)), du, words + n);
  }
}

// The most rows or columns of a chunk.
constexpr int kMostColumns = 512;

// The draws of a chunk: kept(row, c, x) gives x, floats or words, where the pairs of the row and columns from c on are
// kept, else 0.
struct KeepsAll {
  template <class X>
  HWY_INLINE X operator()(int64_t, int, X x) const {
    return x;
  }
};
template <core::Side kRows>
class KeepsDrawn {
 public:
  explicit KeepsDrawn(const Chunk& b)
      : limit_(hn::Set(Words(), b.drop.dropout->threshold() - 1)) {  // there is a threshold, so it is at least 1
    constexpr core::Side kColumns = kRows == core::Side::kQuery ? core::Side::kKey : core::Side::kQuery;
    dropout_words(b.drop, b.stride, kRows, b.row0, (b.rows + kLanes - 1) / kLanes * kLanes, rows_);
    dropout_words(b.drop, b.stride, kColumns, b.column0, b.columns, columns_);
  }

  template <class X>
  HWY_INLINE X operator()(int64_t row, int c, X x) const {
    const Words du;
    const auto of_row = hn::Set(du, rows_[row]), of_columns = hn::Load(du, columns_ + c);
    auto word = hn::Mul(hn::Xor(of_row, of_columns), hn::Set(du, 0x9E3779B1u));
    word = hn::Xor(word, hn::ShiftRight<15>(word));
    word = hn::Mul(hn::Add(word, kRows == core::Side::kQuery ? of_row : of_columns), hn::Set(du, 0x85EBCA6Bu));
    return hn::IfThenElseZero(hn::RebindMask(hn::DFromV<X>(), hn::Gt(word, limit_)), x);
  }

 private:
  HWY_ALIGN uint32_t rows_[kMostColumns];
  HWY_ALIGN uint32_t columns_[kMostColumns];
  hn::Vec<Words> limit_;
};

// How far row r of a chunk stands from its columns, less `less`. A distance is rounded to float once, so that forward
// and backward see one number whatever their chunks are; differences of those that are near each other are exact.
class Distances {
 public:
  Distances(const Chunk& b, int64_t r, int64_t less) : step_(static_cast<float>(b.stride)) {
    // Beyond the chunk's own span a distance is kept in two parts: one that all columns share, a multiple of 2^22, and
    // the rest, below 2^24 and so exact (at strides up to 2^16).
    constexpr int64_t kRest = int64_t{1} << 22;
    const int64_t ahead = b.row0 + r * b.stride - b.column0, span = b.columns * b.stride;
    const int64_t shared = (ahead > span ? ahead - span : std::min<int64_t>(ahead, 0)) / kRest * kRest;
    const Floats d;
    near_ = hn::NegMulAdd(hn::Iota(d, 0.0f), hn::Set(d, step_), hn::Set(d, static_cast<float>(ahead - shared)));
    shared_ = hn::Set(d, static_cast<float>(std::abs(shared) - less));
  }

  // Of the columns from c on.
  HWY_INLINE Vector operator()(int c) const { return of(ahead(c)); }

  // The same for vector after vector.
  HWY_INLINE Vector ahead(int c) const { return hn::Sub(near_, hn::Set(Floats(), step_ * static_cast<float>(c))); }
  HWY_INLINE Vector next(Vector ahead) const {
    const Floats d;
    return hn::Sub(ahead, hn::Set(d, step_ * static_cast<float>(hn::Lanes(d))));
  }
  HWY_INLINE Vector of(Vector ahead) const { return hn::Add(hn::Abs(ahead), shared_); }

 private:
  float step_;
  Vector near_, shared_;
};

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include toggle
