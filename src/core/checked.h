// Integer arithmetic that does not wrap.
#pragma once

#include <cstdint>
#include <limits>

namespace longstride::core {

// a * b, or the largest int64 if that does not fit. Both >= 0.
constexpr int64_t saturating_multiply(int64_t a, int64_t b) {
  int64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

// ceil(a / b), a >= 0, b >= 1, without overflow near the top.
constexpr int64_t ceil_divide(int64_t a, int64_t b) { return a / b + (a % b != 0); }

// floor(a / b) for any a, b >= 1.
constexpr int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }

// a - b * floor_divide(a, b): 0 <= result < b.
constexpr int64_t floor_modulo(int64_t a, int64_t b) { return a - b * floor_divide(a, b); }

}  // namespace longstride::core
