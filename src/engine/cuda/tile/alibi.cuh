// ALiBi on an accumulator of the kernels that are built of this folder's pieces.
#pragma once

#include "engine/cuda/tile/shape.cuh"
#include "engine/cuda/tile/values.h"

namespace longstride::engine::cuda {

// Scores of a query head become scale * score - slope * distance, if there are slopes. The row and the column at 0 of
// the accumulator stand at positions row0 and column0.
template <class Places, class Scores>
__device__ __forceinline__ void adjust_scores(const CallValues& call, int head, int row0, int column0, int stride,
                                              const Places& of, Scores& scores) {
  if (!call.adjusts_scores()) return;
  const AlibiValues& a = call.alibi;
  const float slope = a.slopes[head];
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i) {
    const int distance = row0 - column0 + (int(cute::get<0>(of(i))) - int(cute::get<1>(of(i)))) * stride;
    scores(i) = fmaf(scores(i), a.scale, -slope * fabsf(static_cast<float>(distance)));
  }
}

}  // namespace longstride::engine::cuda
