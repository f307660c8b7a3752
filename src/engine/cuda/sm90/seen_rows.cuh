// What a warpgroup need not compute. Used by the consumers of the forward for short tiles and of the backward.
#pragma once

#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda::sm90 {

// Whether one of the 64 rows from `first` on sees a column of the block that the note is of.
template <class Note>
__device__ __forceinline__ bool seen_by_rows(const Note& b, int first) {
  if (!b.masked) return true;
  const int begin = max(max(first, b.rows & 0xffff), 1 - b.diagonals.end());
  const int end = min(min(first + 64, b.rows >> 16), b.columns - b.diagonals.begin());
  return begin < end;
}

}  // namespace longstride::engine::cuda::sm90
