// Begins and ends the dK and dV of a tile: partial levels keep float32 slots, base levels begin with them and write the
// results.
#pragma once

#include <cstdint>
#include <cute/tensor.hpp>

#include "engine/cuda/merged_rows.h"
#include "engine/cuda/sm90/backward_values.h"
#include "engine/cuda/sm90/store_row.cuh"

namespace longstride::engine::cuda::sm90 {

// What a tile begins with: nothing, or what partial levels kept for its rows, since merging is adding.
template <class Shape, class Keys>
__device__ __forceinline__ void begin_keys(const BackwardParams& p, const KeyItemNote& item, Keys& dk, Keys& dv,
                                           int row0, int column0) {
  cute::clear(dk);
  cute::clear(dv);
  const int64_t head = (int64_t(item.batch) * p.kv_heads + item.kv_head) * p.partial_rows;
#pragma unroll 1
  for (int i = 0; i < item.merge_count; ++i) {
    const MergedRows merged(p.plan.merges[item.merge_begin + i], head, item.repeat);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t of_row = row0 + 8 * r < item.rows ? merged.slot(row0 + 8 * r) : -1;
      if (of_row < 0) continue;
      const int64_t slot = of_row * Shape::kDim + column0;
#pragma unroll
      for (int j = 0; j < Shape::kDim / 8; ++j) {
        const float2 a = *reinterpret_cast<const float2*>(p.partial_dk + slot + 8 * j);
        const float2 b = *reinterpret_cast<const float2*>(p.partial_dv + slot + 8 * j);
        dk[4 * j + 2 * r] += a.x, dk[4 * j + 2 * r + 1] += a.y;
        dv[4 * j + 2 * r] += b.x, dv[4 * j + 2 * r + 1] += b.y;
      }
    }
  }
}

template <class Shape, class Keys>
__device__ __forceinline__ void store_keys(const BackwardParams& p, const KeyItemNote& item, const Keys& dk,
                                           const Keys& dv, int row0, int column0) {
  const int64_t head = int64_t(item.batch) * p.kv_heads + item.kv_head;
  const float out_scale = p.out_scale * p.dropout.gain;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const bool valid = row < item.rows;
    if (p.partial) {
      if (!valid) continue;
      const int64_t slot = (head * p.partial_rows + item.slot + row) * Shape::kDim;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n) {
        *reinterpret_cast<float2*>(p.partial_dk + slot + 8 * n + column0) =
            make_float2(dk[4 * n + 2 * r], dk[4 * n + 2 * r + 1]);
        *reinterpret_cast<float2*>(p.partial_dv + slot + 8 * n + column0) =
            make_float2(dv[4 * n + 2 * r], dv[4 * n + 2 * r + 1]);
      }
      continue;
    }
    const int64_t at = item.row0 + row * item.stride;
    const int64_t to_dk = item.batch * p.dk_batch_stride + at * p.dk_len_stride + item.kv_head * p.dk_head_stride;
    const int64_t to_dv = item.batch * p.dv_batch_stride + at * p.dv_len_stride + item.kv_head * p.dv_head_stride;
    store_result<Shape>(p.dk, to_dk, p.float32_results, valid, p.dim, dk, r, p.result_scale);
    store_result<Shape>(p.dv, to_dv, p.float32_results, valid, p.dim, dv, r, out_scale);
  }
}

}  // namespace longstride::engine::cuda::sm90
