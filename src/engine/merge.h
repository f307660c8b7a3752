// Merging of attention over disjoint key sets: from (out, lse) pairs to the (out, lse) of the union. Called by the
// engines for partial levels and by the op for its merge. Natural logarithms; an lse of -inf means that nothing was
// seen.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace longstride::engine {

// ln(e^a + e^b). -inf is neutral; NaN stays NaN.
template <typename Real>
Real merged_lse(Real a, Real b) {
  constexpr Real kNothing = -std::numeric_limits<Real>::infinity();
  if (a == kNothing) return b;
  if (b == kNothing) return a;
  const Real high = a > b ? a : b;
  const Real low = a > b ? b : a;
  if (high == std::numeric_limits<Real>::infinity()) return low + high;
  return high + std::log1p(std::exp(low - high));
}

// The share e^(part - whole) that a part has in the whole; 0 for a part that saw nothing, even when the whole did not
// see anything either.
template <typename Real>
Real merge_share(Real part, Real whole) {
  return part == -std::numeric_limits<Real>::infinity() ? Real{0} : std::exp(part - whole);
}

// (out, lse) becomes the attention over its own keys and the part's. Who saw nothing is not read, so that what it holds
// does not matter; a share that underflows is still multiplied, so that NaN stays NaN.
template <typename Real, typename PartReal>
void merge_into(Real* out, Real* lse, const PartReal* part_out, Real part_lse, int64_t dim) {
  constexpr Real kNothing = -std::numeric_limits<Real>::infinity();
  if (part_lse == kNothing) return;
  const Real whole = merged_lse(*lse, part_lse);
  const bool own_counts = *lse != kNothing;
  const Real own_share = merge_share(*lse, whole);
  const Real part_share = merge_share(part_lse, whole);
  for (int64_t d = 0; d < dim; ++d) {
    const Real own = own_counts ? own_share * out[d] : Real{0};
    out[d] = own + part_share * static_cast<Real>(part_out[d]);
  }
  *lse = whole;
}

}  // namespace longstride::engine
