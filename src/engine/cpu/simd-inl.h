// Vector arithmetic shared by the CPU engine's kernels: 2^x and the draws of dropout. Included once per instruction
// set.
#if defined(LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#undef LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#else
#define LONGSTRIDE_ENGINE_CPU_SIMD_INL_H_
#endif

#include <hwy/highway.h>

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

#if HWY_TARGET == HWY_SCALAR
HWY_INLINE hn::Vec<Words> philox(hn::Vec<Words> c0, hn::Vec<Words> c1, hn::Vec<Words> c2, hn::Vec<Words> c3,
                                 core::PhiloxKey key) {
  const core::PhiloxCounter counter{hn::GetLane(c0), hn::GetLane(c1), hn::GetLane(c2), hn::GetLane(c3)};
  return hn::Set(Words(), core::philox4x32_10(counter, key)[0]);
}
#else
// Word 0 of Philox4x32-10 for counters (c0, c1, c2, c3).
HWY_INLINE hn::Vec<Words> philox(hn::Vec<Words> c0, hn::Vec<Words> c1, hn::Vec<Words> c2, hn::Vec<Words> c3,
                                 core::PhiloxKey key) {
  const Words du;
  const hn::Repartition<uint64_t, Words> du64;
  const auto m0 = hn::Set(du, 0xD2511F53u);
  const auto m1 = hn::Set(du, 0xCD9E8D57u);
  const auto lower = hn::Set(du64, 0xFFFFFFFFull);
  const auto both = [&](hn::Vec<Words> x, hn::Vec<Words> m, hn::Vec<Words>& high, hn::Vec<Words>& low) HWY_ATTR {
    const auto even = hn::MulEven(x, m);
    const auto odd = hn::MulEven(hn::BitCast(du, hn::ShiftRight<32>(hn::BitCast(du64, x))), m);
    high = hn::BitCast(du, hn::Or(hn::ShiftRight<32>(even), hn::AndNot(lower, odd)));
    low = hn::BitCast(du, hn::Or(hn::And(even, lower), hn::ShiftLeft<32>(odd)));
  };
  for (int round = 0; round < 10; ++round) {
    hn::Vec<Words> high0, low0, high1, low1;
    both(c0, m0, high0, low0);
    both(c2, m1, high1, low1);
    c0 = hn::Xor(hn::Xor(high1, c1), hn::Set(du, key[0]));
    c1 = low1;
    c2 = hn::Xor(hn::Xor(high0, c3), hn::Set(du, key[1]));
    c3 = low0;
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c0;
}
#endif

// keep[c] = 1 or 0 for columns [0, columns) of a chunk. rows_are_queries: the row gives q, the columns k; else the
// other way round.
HWY_INLINE void draw_row(const DropoutChunk& at, bool rows_are_queries, int64_t row, int columns, float* keep) {
  const Floats d;
  const Words du;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const uint64_t fixed = static_cast<uint64_t>(at.row0 + row * at.stride);
  HWY_ALIGN uint32_t low[kLanes];
  HWY_ALIGN uint32_t high[kLanes];
  for (int c = 0; c < columns; c += lanes) {
    for (int i = 0; i < lanes; ++i) {
      const uint64_t moving = static_cast<uint64_t>(at.column0 + (c + i) * at.stride);
      low[i] = static_cast<uint32_t>(moving);
      high[i] = rows_are_queries ? static_cast<uint32_t>(((fixed >> 32) << 16) | (moving >> 32))
                                 : static_cast<uint32_t>(((moving >> 32) << 16) | (fixed >> 32));
    }
    const auto constant = hn::Set(du, static_cast<uint32_t>(fixed));
    const auto varying = hn::Load(du, low);
    const auto word = philox(rows_are_queries ? constant : varying, rows_are_queries ? varying : constant,
                             hn::Load(du, high), hn::Set(du, at.batch_head), at.dropout->key());
    // Unsigned compare through the sign bit.
    const hn::RebindToSigned<Words> di;
    const auto flip = hn::Set(du, 0x80000000u);
    const auto dropped = hn::Lt(hn::BitCast(di, hn::Xor(word, flip)),
                                hn::BitCast(di, hn::Set(du, at.dropout->threshold() ^ 0x80000000u)));
    hn::StoreU(hn::IfThenZeroElse(hn::RebindMask(d, dropped), hn::Set(d, 1.0f)), d, keep + c);
  }
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // include toggle
