// The factor that makes exponents of 2 out of scores, for launches.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <numbers>

namespace longstride::engine::cuda {

// scale * log2(e) as a normal number of the scale's sign: 0 * -inf would make NaN of a masked score, and so would an
// infinite factor of the greatest one.
inline float scale_log2(double scale) {
  const double size = std::abs(scale) * std::numbers::log2e;
  return static_cast<float>(std::copysign(std::clamp<double>(size, FLT_MIN, FLT_MAX), scale));
}

}  // namespace longstride::engine::cuda
