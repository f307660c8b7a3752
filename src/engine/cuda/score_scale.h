// The factors that make exponents of scores, for launches.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>

#include "engine/cuda/extras.h"

namespace longstride::engine::cuda {

// scale * log2(e) as a normal number of the scale's sign: 0 * -inf would make NaN of a masked score, and so would an
// infinite factor of the greatest one.
inline float scale_log2(double scale) {
  const double size = std::abs(scale) * std::numbers::log2e;
  return static_cast<float>(std::copysign(std::clamp<double>(size, FLT_MIN, FLT_MAX), scale));
}

// Of the scores that exponents are made of: q . k, or where the call adjusts scores what its kernel makes of it, which
// is scaled already.
struct ScoreFactors {
  float scale, log2;
};
inline ScoreFactors score_factors(const Problem& p) {
  const double scale = adjusts_scores(p) ? 1.0 : p.scale;
  return {static_cast<float>(scale), scale_log2(scale)};
}

}  // namespace longstride::engine::cuda
