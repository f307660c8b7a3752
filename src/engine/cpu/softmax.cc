// Online softmax of one chunk of scores (kernels.h). Whole groups that a row sees take no mask work.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/softmax.cc"
#include <hwy/foreach_target.h>
// foreach_target comes first: it includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longstride::engine::cpu::HWY_NAMESPACE {

// Stores the kept probabilities of columns c.. and c + 16.. of one group at its vector offset i. Narrow ones are
// dropped after they are rounded: of both AVX-512 makes one instruction.
template <class Kept>
HWY_INLINE void store_group(Cell cell, const Kept& kept, int64_t r, Vector low, Vector high, int c, int i, void* row) {
  const Floats d;
  const Words du;
  const int c0 = c + i, c1 = c + kLanes + i;
  if (cell == Cell::kNarrow) {
    const auto word = paired(kept(r, c0, rounded_upper(d, low)), kept(r, c1, rounded_upper(d, high)));
    hn::StoreU(word, du, static_cast<uint32_t*>(row) + c / 2 + i);
  } else {
    hn::StoreU(kept(r, c0, low), d, static_cast<float*>(row) + c0);
    hn::StoreU(kept(r, c1, high), d, static_cast<float*>(row) + c1);
  }
}

// Multiplies what a row has summed so far.
HWY_INLINE void rescale(float factor, int64_t r, const SoftmaxRows& s) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const Vector times = hn::Set(d, factor);
  for (int i = 0; i < kLanes; i += lanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, s.sum + r * kLanes + i), times), d, s.sum + r * kLanes + i);
  }
  float* out = s.out + r * s.out_ld;
  for (int64_t i = 0; i < s.out_ld; i += lanes) hn::StoreU(hn::Mul(hn::LoadU(d, out + i), times), d, out + i);
}

// Raises the row's max to `peak`: at once where scores are large, so that lse and score cancel in the backward, else
// only if the probabilities would grow beyond 2^8; and rescales what was summed so far. Returns what scores are
// relative to.
HWY_INLINE float settle_max(float peak, const Chunk& b, int64_t r, const SoftmaxRows& s) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const float old = s.max[r];
  // One comparison, as in most chunks nothing is to be done: a branch on every rise would often be mispredicted.
  if (peak > old + (std::abs(peak) <= b.loose ? 0.5f * b.loose : 0.0f)) {
    s.max[r] = peak;
    if (old != kNothing) rescale(std::exp2((old - peak) * b.scale_log2), r, s);
  }
  const float settled = s.max[r];
  return settled == kNothing ? 0.0f : settled;
}

// The exponent of a score relative to `base`, to base 2, with the weight. The difference comes first: it is as exact as
// the scores, however large they are, and the weight meets no large number.
struct Exponent {
  Exponent(const Chunk& b, float base)
      : base_(hn::Set(Floats(), base)),
        scale_(hn::Set(Floats(), b.scale_log2)),
        weight_(hn::Set(Floats(), b.weight_log2)) {}
  HWY_INLINE Vector operator()(Vector score) const { return hn::MulAdd(hn::Sub(score, base_), scale_, weight_); }
  Vector base_, scale_, weight_;
};

// The same in one instruction, for bases that are small enough (Chunk::loose).
struct LooseExponent {
  LooseExponent(const Chunk& b, float base)
      : scale_(hn::Set(Floats(), b.scale_log2)), shift_(hn::Set(Floats(), b.weight_log2 - base * b.scale_log2)) {}
  HWY_INLINE Vector operator()(Vector score) const { return hn::MulAdd(score, scale_, shift_); }
  Vector scale_, shift_;
};

// The lanes of a vector at column c that stand before column `last`; the others are `instead`.
HWY_INLINE Vector before(int last, int c, Vector x, Vector instead) {
  const Floats d;
  return hn::IfThenElse(hn::Lt(hn::Iota(d, static_cast<float>(c)), hn::Set(d, static_cast<float>(last))), x, instead);
}

HWY_INLINE bool is_loose(const Chunk& b, float base) { return std::abs(base) <= b.loose; }

// The probabilities of a row that sees columns [0, last), last > 0: masks in the one group that `last` cuts.
template <class Exponents, class Kept>
HWY_INLINE void plain_probabilities(Cell cell, const Exponents& exponent, int64_t r, int last, const float* row,
                                    void* to, const SoftmaxRows& s, const Kept& kept) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int whole = last / kGroup * kGroup;
  for (int i = 0; i < kLanes; i += lanes) {
    Vector sum = hn::LoadU(d, s.sum + r * kLanes + i);
    const auto group = [&](int c, auto seen) HWY_ATTR {
      const Vector low = seen(c + i, exp2_of(d, exponent(hn::LoadU(d, row + c + i))));
      const Vector high = seen(c + kLanes + i, exp2_of(d, exponent(hn::LoadU(d, row + c + kLanes + i))));
      sum = hn::Add(sum, hn::Add(low, high));
      store_group(cell, kept, r, low, high, c, i, to);
    };
    for (int c = 0; c < whole; c += kGroup) group(c, [](int, Vector x) HWY_ATTR { return x; });
    if (whole < last) group(whole, [&](int c, Vector x) HWY_ATTR { return before(last, c, x, hn::Zero(d)); });
    hn::StoreU(sum, d, s.sum + r * kLanes + i);
  }
}

template <class Kept>
HWY_INLINE void plain_row(Cell cell, const Chunk& b, int64_t r, int last, const float* row, void* to,
                          const SoftmaxRows& s, const Kept& kept) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int whole = last / kGroup * kGroup;
  const Vector nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  Vector top0 = nothing;
  Vector top1 = nothing;
  for (int c = 0; c < whole; c += kGroup) {
    for (int i = 0; i < kLanes; i += lanes) {
      top0 = hn::Max(top0, hn::LoadU(d, row + c + i));
      top1 = hn::Max(top1, hn::LoadU(d, row + c + kLanes + i));
    }
  }
  for (int c = whole; c < last; c += lanes) top0 = hn::Max(top0, before(last, c, hn::LoadU(d, row + c), nothing));
  const float base = settle_max(hn::GetLane(hn::MaxOfLanes(d, hn::Max(top0, top1))), b, r, s);
  if (is_loose(b, base)) {
    plain_probabilities(cell, LooseExponent(b, base), r, last, row, to, s, kept);
  } else {
    plain_probabilities(cell, Exponent(b, base), r, last, row, to, s, kept);
  }
  const int written = (last + kGroup - 1) / kGroup * kGroup;
  std::fill_n(static_cast<char*>(to) + written * cell_bytes(cell), (b.columns - written) * cell_bytes(cell), char{0});
}

// A row that sees columns [first, last) only.
template <class Kept>
HWY_INLINE void masked_row(Cell cell, const Chunk& b, int64_t r, int first, int last, const float* row, void* to,
                           const SoftmaxRows& s, const Kept& kept) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const Vector from = hn::Set(d, static_cast<float>(first));
  const Vector until = hn::Set(d, static_cast<float>(last));
  const auto seen = [&](int c) HWY_ATTR {
    const Vector column = hn::Iota(d, static_cast<float>(c));
    return hn::And(hn::Ge(column, from), hn::Lt(column, until));
  };
  const Vector nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  Vector top = nothing;
  for (int c = 0; c < b.columns; c += lanes) {
    top = hn::Max(top, hn::IfThenElse(seen(c), hn::LoadU(d, row + c), nothing));
  }
  const float base = settle_max(hn::GetLane(hn::MaxOfLanes(d, top)), b, r, s);
  const bool loose = is_loose(b, base);
  const Exponent exact(b, base);
  const LooseExponent short_cut(b, base);
  const auto exponent = [&](Vector score) HWY_ATTR { return loose ? short_cut(score) : exact(score); };
  for (int i = 0; i < kLanes; i += lanes) {
    Vector sum = hn::LoadU(d, s.sum + r * kLanes + i);
    for (int c = 0; c < b.columns; c += kGroup) {
      const int c0 = c + i;
      const int c1 = c + kLanes + i;
      const Vector low = hn::IfThenElseZero(seen(c0), exp2_of(d, exponent(hn::LoadU(d, row + c0))));
      const Vector high = hn::IfThenElseZero(seen(c1), exp2_of(d, exponent(hn::LoadU(d, row + c1))));
      sum = hn::Add(sum, hn::Add(low, high));
      store_group(cell, kept, r, low, high, c, i, to);
    }
    hn::StoreU(sum, d, s.sum + r * kLanes + i);
  }
}

// The key that a row's probabilities are relative to.
struct Reference {
  float score;  // not yet scaled, and without its bias
  int64_t distance;
};

// The exponents of columns [first, last) relative to a key, to base 2, with the weight; -inf beside them in the groups
// that they cut. Returns the greatest. Scores and distances are subtracted before either is multiplied: the key itself
// gets just the weight, and what is near it is exact however far from the row both are.
HWY_INLINE float alibi_exponents(const Chunk& b, int64_t r, int first, int last, const float* row, Reference key,
                                 float* exponents) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const Distances distance(b, r, key.distance);
  const Vector score = hn::Set(d, key.score), scale = hn::Set(d, b.scale_log2), slope = hn::Set(d, b.slope_log2);
  const Vector weight = hn::Set(d, b.weight_log2);
  const Vector nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  Vector top = nothing;
  const int begin = first / kGroup * kGroup;
  Vector ahead = distance.ahead(begin);
  for (int c = begin; c < (last + kGroup - 1) / kGroup * kGroup; c += lanes, ahead = distance.next(ahead)) {
    Vector x = hn::NegMulAdd(slope, distance.of(ahead), weight);
    x = hn::MulAdd(hn::Sub(hn::LoadU(d, row + c), score), scale, x);
    if (c < first) x = before(first, c, nothing, x);
    if (c + lanes > last) x = before(last, c, x, nothing);
    hn::StoreU(x, d, exponents + c);
    top = hn::Max(top, x);
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}

// The column of [first, last) whose bias is the greatest: the nearest, or the farthest under a slope below zero.
HWY_INLINE int favoured_column(const Chunk& b, int64_t r, int first, int last) {
  if (b.slope < 0) return b.distance(r, first) > b.distance(r, last - 1) ? first : last - 1;
  const int64_t ahead = b.row0 + r * b.stride - b.column0;
  if (ahead <= first * b.stride) return first;
  if (ahead >= (last - 1) * b.stride) return last - 1;
  return static_cast<int>(ahead / b.stride);  // seldom: it takes as long as four vectors
}

// The exponent of one key relative to another, without weights.
HWY_INLINE float exponent_beside(const Chunk& b, Reference key, Reference other) {
  return (key.score - other.score) * b.scale_log2 - b.slope_log2 * static_cast<float>(key.distance - other.distance);
}

// Makes a key of columns [first, last) the row's reference where the present one is too far below it (settle_max), and
// fills the exponents of these columns. Returns the greatest.
HWY_INLINE float settle_reference(const Chunk& b, int64_t r, int first, int last, const float* row,
                                  const SoftmaxRows& s, float* exponents) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  const auto at = [&](int64_t c) { return Reference{row[c], b.distance(r, c)}; };
  const auto tolerated = [&](Reference key) {
    constexpr float kLoose = 16;  // as Chunk::loose
    const bool loose =
        std::abs(key.score) <= b.loose && std::abs(b.slope_log2) * static_cast<float>(key.distance) <= kLoose;
    return loose ? 0.5f * kLoose : 0.0f;
  };
  const Reference old{s.max[r], s.distance[r]};
  const bool nothing = old.score == kNothing;
  // Likely the greatest of them. If it is not, its bias at least is, so that no exponent overflows by that.
  const Reference favoured = at(favoured_column(b, r, first, last));
  const bool likely = std::isfinite(favoured.score) && (nothing || exponent_beside(b, favoured, old) > tolerated(old));
  Reference key = likely ? favoured : nothing ? Reference{0, 0} : old;
  float top = alibi_exponents(b, r, first, last, row, key, exponents);
  float limit = b.weight_log2 + (nothing && !likely ? kNothing : tolerated(key));
  bool moved = likely;
  // Once at most, but where exponents are so large that they were rounded.
  for (int n = 0; n < 4 && top > limit; ++n) {
    const auto c = std::find(exponents + first, exponents + last, top) - exponents;
    if (c == last) break;
    key = at(c);
    moved = true;
    limit = b.weight_log2;
    top = alibi_exponents(b, r, first, last, row, key, exponents);
  }
  if (!moved) return top;
  s.max[r] = key.score;
  s.distance[r] = key.distance;
  if (!nothing) rescale(std::exp2(exponent_beside(b, old, key)), r, s);
  return top;
}

// Whether 2^x of any of these exponents, whose greatest is `top`, is not 0. A maximum does not know of NaN.
HWY_INLINE bool any_counts(const float* exponents, int begin, int end, float top) {
  const Floats d;
  if (!(top < -126)) return true;
  for (int c = begin; c < end; c += static_cast<int>(hn::Lanes(d)))
    if (!hn::AllFalse(d, hn::IsNaN(hn::LoadU(d, exponents + c)))) return true;
  return false;
}

// A row that sees columns [first, last) and has a slope. Returns whether any of them counts.
template <class Kept>
HWY_INLINE bool alibi_row(Cell cell, const Chunk& b, int64_t r, int first, int last, const float* row, void* to,
                          const SoftmaxRows& s, const Kept& kept) {
  const Floats d;
  const int lanes = static_cast<int>(hn::Lanes(d));
  const int64_t size = cell_bytes(cell);
  HWY_ALIGN float exponents[kMostColumns];
  const float top = settle_reference(b, r, first, last, row, s, exponents);
  const int begin = first / kGroup * kGroup, end = (last + kGroup - 1) / kGroup * kGroup;
  if (!any_counts(exponents, begin, end, top)) {
    std::fill_n(static_cast<char*>(to), b.columns * size, char{0});
    return false;
  }
  for (int i = 0; i < kLanes; i += lanes) {
    Vector sum = hn::LoadU(d, s.sum + r * kLanes + i);
    for (int c = begin; c < end; c += kGroup) {
      const int c0 = c + i, c1 = c + kLanes + i;
      const Vector low = exp2_of(d, hn::LoadU(d, exponents + c0)), high = exp2_of(d, hn::LoadU(d, exponents + c1));
      sum = hn::Add(sum, hn::Add(low, high));
      store_group(cell, kept, r, low, high, c, i, to);
    }
    hn::StoreU(sum, d, s.sum + r * kLanes + i);
  }
  std::fill_n(static_cast<char*>(to), begin * size, char{0});
  std::fill_n(static_cast<char*>(to) + end * size, (b.columns - end) * size, char{0});
  return true;
}

template <class Kept>
HWY_INLINE bool softmax_rows(Cell cell, const Chunk& b, const float* scores, void* probabilities, const SoftmaxRows& s,
                             const Kept& kept) {
  bool counts = b.slope == 0;
  for (int64_t r = 0; r < b.rows; ++r) {
    void* to = static_cast<char*>(probabilities) + r * b.ld * cell_bytes(cell);
    const int first = static_cast<int>(std::clamp<int64_t>(r + b.begin_diagonal, b.first, b.last));
    const int last = static_cast<int>(std::clamp<int64_t>(r + b.end_diagonal, b.first, b.last));
    if (r < b.row_begin || r >= b.row_end || last <= first) {
      std::fill_n(static_cast<char*>(to), b.columns * cell_bytes(cell), char{0});
    } else if (b.slope != 0) {
      counts |= alibi_row(cell, b, r, first, last, scores + r * b.ld, to, s, kept);
    } else if (first == 0) {
      plain_row(cell, b, r, last, scores + r * b.ld, to, s, kept);
    } else {
      masked_row(cell, b, r, first, last, scores + r * b.ld, to, s, kept);
    }
  }
  return counts;
}

bool softmax_chunk(Cell cell, const Chunk& b, const float* scores, void* probabilities, const SoftmaxRows& s) {
  if (b.drop.dropout) return softmax_rows(cell, b, scores, probabilities, s, KeepsDrawn<core::Side::kQuery>(b));
  return softmax_rows(cell, b, scores, probabilities, s, KeepsAll());
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longstride::engine::cpu {
HWY_EXPORT(softmax_chunk);
bool softmax_chunk(Cell cell, const Chunk& b, const float* scores, void* probabilities, const SoftmaxRows& s) {
  return HWY_DYNAMIC_DISPATCH(softmax_chunk)(cell, b, scores, probabilities, s);
}
}  // namespace longstride::engine::cpu
#endif
