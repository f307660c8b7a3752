// Where this engine may make an exponent by one multiply-add, and P of the backward's accumulators.
#pragma once

#include <cute/tensor.hpp>

#include "engine/cuda/exponential.cuh"

namespace longstride::engine::cuda::sm90 {

// An exponent is one multiply-add while its terms are below these: that rounds the terms, which moves a probability by
// 2^-13 and 2^-16 of itself, while P is rounded to 8 or 11 bits. From there on what is large is taken away first.
constexpr float kMostForward = 4096;  // |scale * log2(e) * score|
constexpr float kMostBackward = 256;  // |lse|

// P of one accumulator in place of its scores: weight * exp(scale * score - lse), where lse(i) is that of element i's
// query. kExact: some lse of the problem is large; the kernels are made for both, since a branch among products costs 4
// to 10 %. A query's own lse decides how its probabilities are made, whatever the others hold.
template <bool kExact, class Scores, class Lse>
__device__ __forceinline__ void exponentiate(Scores& scores, Lse&& lse, float scale, float scale_log2,
                                             float weight_log2) {
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i) {
    float exponent = fmaf(scores[i], scale_log2, fmaf(lse(i), -kLog2E, weight_log2));
    if (kExact && fabsf(lse(i)) >= kMostBackward)
      exponent = exponent_below<false>(scores[i], scale, lse(i), weight_log2);
    scores[i] = exp2_unit(exponent);
  }
}

}  // namespace longstride::engine::cuda::sm90
