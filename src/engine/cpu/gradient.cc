// The elementwise half of the backward of one transposed chunk (kernels.h): probabilities again from scores and lse,
// then the scores' gradients. Rows are keys, columns queries.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/cpu/gradient.cc"
#include <hwy/foreach_target.h>
// foreach_target comes first: it includes this file once per instruction set.
#include <hwy/highway.h>

#include <algorithm>
#include <limits>
#include <numbers>

#include "engine/cpu/kernels.h"
#include "engine/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace longstride::engine::cpu::HWY_NAMESPACE {

struct Pair {
  Vector probability;
  Vector d_score;
};

constexpr float kLog2E = std::numbers::log2e_v<float>;

// What is taken off the scaled scores of a row: nothing, or its slope times the distance.
struct NoBias {
  NoBias(const Chunk&, int64_t) {}
  HWY_INLINE Vector taken_off(Vector x, int) const { return x; }
};
struct AlibiBias {
  AlibiBias(const Chunk& b, int64_t r) : distance(b, r, 0), slope(hn::Set(Floats(), b.slope)) {}
  HWY_INLINE Vector taken_off(Vector x, int c) const { return hn::Sub(x, hn::Mul(slope, distance(c))); }
  Distances distance;
  Vector slope;
};

// The score is scaled, biased and rounded as the forward did it for lse, and lse subtracted before the change of base:
// so a query with one key has probability 1 whatever its score.
template <class Bias>
HWY_INLINE Vector probability_of(const GradientColumns& g, const Chunk& b, const Bias& bias, const float* score,
                                 int c) {
  const Floats d;
  const Vector scaled = hn::Mul(hn::LoadU(d, score + c), hn::Set(d, b.scale));
  const Vector x = hn::Sub(bias.taken_off(scaled, c), hn::LoadU(d, g.lse + c));
  return exp2_of(d, hn::MulAdd(x, hn::Set(d, kLog2E), hn::Set(d, b.weight_log2)));
}

// The same in one instruction less, where every lse is small (GradientColumns::loose).
HWY_INLINE Vector loose_probability_of(const GradientColumns& g, const Chunk& b, const float* score, int c) {
  const Floats d;
  const Vector shift = hn::NegMulAdd(hn::LoadU(d, g.lse + c), hn::Set(d, kLog2E), hn::Set(d, b.weight_log2));
  return exp2_of(d, hn::MulAdd(hn::LoadU(d, score + c), hn::Set(d, b.scale_log2), shift));
}

// kept(x): x of the pairs that dropout keeps, else 0.
template <class Kept>
HWY_INLINE Pair plain_pair(const GradientColumns& g, Vector p, const float* d_probability, int c, const Kept& kept) {
  const Floats d;
  const Vector dp = kept(hn::LoadU(d, d_probability + c));
  return {kept(p), hn::Mul(p, hn::MulSub(dp, hn::Set(d, g.gain), hn::LoadU(d, g.delta + c)))};
}

// Only columns [first, last) are seen. p: probabilities as if all were.
template <class Kept>
HWY_INLINE Pair masked_pair(const GradientColumns& g, Vector p, const float* d_probability, int c, int first, int last,
                            const Kept& kept) {
  const Floats d;
  const Vector column = hn::Iota(d, static_cast<float>(c));
  const auto seen = hn::And(hn::Ge(column, hn::Set(d, static_cast<float>(first))),
                            hn::Lt(column, hn::Set(d, static_cast<float>(last))));
  const Vector dp = kept(hn::Mul(hn::LoadU(d, d_probability + c), hn::Set(d, g.gain)));
  // A query whose lse is -inf gives and gets nothing, even where its scores are not numbers.
  const auto live =
      hn::And(seen, hn::Not(hn::Gt(hn::LoadU(d, g.lse + c), hn::Set(d, std::numeric_limits<float>::max()))));
  return {hn::IfThenElseZero(live, kept(p)),
          hn::IfThenElseZero(live, hn::Mul(p, hn::Sub(dp, hn::LoadU(d, g.delta + c))))};
}

struct Outputs {
  void* probabilities;
  void* d_scores;
  void* pairs;
};

// Two rows at a time: they make the pairs of the right operand.
template <class Of>
HWY_INLINE void two_rows(Cell cell, const Chunk& b, int64_t r, const Outputs& o, const Of& of) {
  const Floats d;
  const Words du;
  const int lanes = static_cast<int>(hn::Lanes(d));
  for (int c = 0; c < b.columns; c += kGroup) {
    for (int i = 0; i < kLanes; i += lanes) {
      const int c0 = c + i;
      const int c1 = c + kLanes + i;
      const Pair a0 = of(0, c0);
      const Pair a1 = of(0, c1);
      const Pair b0 = of(1, c0);
      const Pair b1 = of(1, c1);
      if (cell == Cell::kNarrow) {
        auto* p = static_cast<uint32_t*>(o.probabilities) + (r * b.ld + c) / 2 + i;
        auto* ds = static_cast<uint32_t*>(o.d_scores) + (r * b.ld + c) / 2 + i;
        auto* pairs = static_cast<uint32_t*>(o.pairs) + r / 2 * b.ld;
        hn::StoreU(paired(rounded_upper(d, a0.probability), rounded_upper(d, a1.probability)), du, p);
        hn::StoreU(paired(rounded_upper(d, b0.probability), rounded_upper(d, b1.probability)), du, p + b.ld / 2);
        const auto s00 = rounded_upper(d, a0.d_score);
        const auto s01 = rounded_upper(d, a1.d_score);
        const auto s10 = rounded_upper(d, b0.d_score);
        const auto s11 = rounded_upper(d, b1.d_score);
        hn::StoreU(paired(s00, s01), du, ds);
        hn::StoreU(paired(s10, s11), du, ds + b.ld / 2);
        hn::StoreU(paired(s00, s10), du, pairs + c0);
        hn::StoreU(paired(s01, s11), du, pairs + c1);
      } else {
        auto* p = static_cast<float*>(o.probabilities) + r * b.ld;
        auto* ds = static_cast<float*>(o.d_scores) + r * b.ld;
        hn::StoreU(a0.probability, d, p + c0);
        hn::StoreU(a1.probability, d, p + c1);
        hn::StoreU(b0.probability, d, p + b.ld + c0);
        hn::StoreU(b1.probability, d, p + b.ld + c1);
        hn::StoreU(a0.d_score, d, ds + c0);
        hn::StoreU(a1.d_score, d, ds + c1);
        hn::StoreU(b0.d_score, d, ds + b.ld + c0);
        hn::StoreU(b1.d_score, d, ds + b.ld + c1);
      }
    }
  }
}

template <class Bias, class Kept>
HWY_INLINE void gradient_rows(Cell cell, const Chunk& b, const float* scores, const float* d_probabilities,
                              const GradientColumns& g, const Outputs& o, const Kept& kept) {
  for (int64_t r = 0; r < b.rows; r += 2) {
    int first[2];
    int last[2];
    bool plain = true;
    for (int k = 0; k < 2; ++k) {
      const bool live = r + k >= b.row_begin && r + k < b.row_end;
      first[k] = static_cast<int>(std::clamp<int64_t>(r + k + b.begin_diagonal, b.first, b.last));
      last[k] = live ? static_cast<int>(std::clamp<int64_t>(r + k + b.end_diagonal, first[k], b.last)) : first[k];
      plain = plain && first[k] == 0 && last[k] == b.columns;
    }
    const float* score = scores + r * b.ld;
    const float* dp = d_probabilities + r * b.ld;
    const Bias bias[2] = {Bias(b, r), Bias(b, r + 1)};
    const auto pairs = [&](const auto& pair) HWY_ATTR {
      two_rows(cell, b, r, o, [&](int k, int c) HWY_ATTR {
        return pair(k, score + k * b.ld, dp + k * b.ld, c, [&](Vector x) HWY_ATTR { return kept(r + k, c, x); });
      });
    };
    if (plain && g.loose) {
      pairs([&](int, const float* x, const float* dx, int c, const auto& keep)
                HWY_ATTR { return plain_pair(g, loose_probability_of(g, b, x, c), dx, c, keep); });
    } else if (plain) {
      pairs([&](int k, const float* x, const float* dx, int c, const auto& keep)
                HWY_ATTR { return plain_pair(g, probability_of(g, b, bias[k], x, c), dx, c, keep); });
    } else {
      pairs([&](int k, const float* x, const float* dx, int c, const auto& keep) HWY_ATTR {
        return masked_pair(g, probability_of(g, b, bias[k], x, c), dx, c, first[k], last[k], keep);
      });
    }
  }
}

template <class Bias>
HWY_INLINE void biased_rows(Cell cell, const Chunk& b, const float* scores, const float* d_probabilities,
                            const GradientColumns& g, const Outputs& o) {
  if (b.drop.dropout) {
    gradient_rows<Bias>(cell, b, scores, d_probabilities, g, o, KeepsDrawn<core::Side::kKey>(b));
  } else {
    gradient_rows<Bias>(cell, b, scores, d_probabilities, g, o, KeepsAll());
  }
}

void gradient_chunk(Cell cell, const Chunk& b, const float* scores, const float* d_probabilities,
                    const GradientColumns& g, void* probabilities, void* d_scores, void* d_scores_pairs) {
  const Outputs o{probabilities, d_scores, d_scores_pairs};
  if (b.slope != 0) {
    biased_rows<AlibiBias>(cell, b, scores, d_probabilities, g, o);
  } else {
    biased_rows<NoBias>(cell, b, scores, d_probabilities, g, o);
  }
}

}  // namespace longstride::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace longstride::engine::cpu {
HWY_EXPORT(gradient_chunk);
void gradient_chunk(Cell cell, const Chunk& b, const float* scores, const float* d_probabilities,
                    const GradientColumns& g, void* probabilities, void* d_scores, void* d_scores_pairs) {
  HWY_DYNAMIC_DISPATCH(gradient_chunk)
  (cell, b, scores, d_probabilities, g, probabilities, d_scores, d_scores_pairs);
}
}  // namespace longstride::engine::cpu
#endif
