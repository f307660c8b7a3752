// ALiBi on a consumer's accumulator. Used by the kernels that are built with Extras.
#pragma once

#include "engine/cuda/extras.h"

namespace longstride::engine::cuda::sm90 {

// With slopes, scores become scale * score - slope * distance. Accumulator rows stand at row + {0, 8} * stride, columns
// at column + (8 * n + c) * stride. Distances below 2^24 are exact, and all come out alike in forward and backward.
template <int kWidth, class Scores>
__device__ __forceinline__ void adjust_scores(const CallValues& call, int head, int row, int column, int stride,
                                              Scores& scores) {
  const AlibiValues& a = call.alibi;
  const float slope = a.slopes[head], step = static_cast<float>(stride);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float from = static_cast<float>(row + 8 * r * stride - column);
#pragma unroll
    for (int n = 0; n < kWidth / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = fmaf(x, a.scale, -slope * fabsf(fmaf(-static_cast<float>(8 * n + c), step, from)));
      }
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
