// Where an item stands, found by a whole warp. Used by the producers.
#pragma once

#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda::sm90 {

// locate(), by all lanes of a warp: each looks at one in 32 of the lanes that are left. Of batches of short sequences
// there are thousands, and a search by halves would wait for memory eleven times a tile.
__device__ __forceinline__ TilePlace locate_by_warp(const Lane* lanes, int32_t lane_count, int32_t group, int64_t item,
                                                    const PlanArrays& plan) {
  int32_t begin = 0, count = lane_count;  // it is one of these
  while (count > 1) {
    const int32_t share = (count + 31) / 32;
    const int32_t last = begin + min(count, (static_cast<int32_t>(threadIdx.x % 32) + 1) * share) - 1;
    const int32_t first_beyond = __ffs(static_cast<int>(__ballot_sync(~0u, lanes[last].item_end > item))) - 1;
    begin += first_beyond * share;
    count = min(share, count - first_beyond * share);
  }
  return place_in(lanes, begin, group, item, plan);
}

}  // namespace longstride::engine::cuda::sm90
