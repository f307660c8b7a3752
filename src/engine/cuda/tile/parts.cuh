// A float as the tensor cores are fed with it: the sum of three parts of bfloat16, which hold its 24 bits. Of the nine
// products of two such sums six count, the others being below what float32 holds of the product.
#pragma once

#include <cstdint>
#include <cute/tensor.hpp>
#include <type_traits>

namespace longstride::engine::cuda {

// The small products of a row's number with a column's, the smallest first: which part of either is multiplied. The
// great one is that of parts 0. Whatever stands in the rows, and whichever kernel makes it, a score comes out of the
// same additions, so that what a forward adds to an lse the backward takes away.
constexpr int kSmallProducts = 5;
constexpr __device__ int query_part(int product) {
  constexpr int kParts[] = {2, 0, 1, 1, 0};
  return kParts[product];
}
constexpr __device__ int key_part(int product) {
  constexpr int kParts[] = {0, 2, 1, 0, 1};
  return kParts[product];
}

// Two results that lie side by side become one pair of bits for each part, a float's greatest part first; other
// elements have one part.
template <class Element>
__device__ __forceinline__ void split(float x, float y, const auto& to) {
  if constexpr (std::is_same_v<Element, cute::half_t>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(to(0)) : "f"(y), "f"(x));
  } else {
    constexpr int kParts = std::is_same_v<Element, float> ? 3 : 1;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(to(part)) : "f"(y), "f"(x));
      x -= __uint_as_float(to(part) << 16);
      y -= __uint_as_float(to(part) & 0xffff0000u);
    }
  }
}

}  // namespace longstride::engine::cuda
