// Stores dK and dV of a finished tile: float32 slots of a partial level, or the results of a base level with what the
// slots hold added.
#pragma once

#include <cstdint>

#include "engine/cuda/sm90/backward_values.h"

namespace longstride::engine::cuda::sm90 {

template <class Shape, class Keys>
__device__ __forceinline__ void store_keys(const BackwardParams& p, const KeyItemNote& item, Keys& dk, Keys& dv,
                                           int row0, int column0) {
  using Element = typename Shape::Element;
  const int64_t head = int64_t(item.batch) * p.kv_heads + item.kv_head;
  const float out_scale = p.out_scale * p.dropout.gain;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    if (row >= item.rows) continue;
    if (p.partial) {
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
    for (int i = 0; i < item.merge_count; ++i) {
      const Merge m = p.plan.merges[item.merge_begin + i];
      const int n = (row - m.row_begin) / m.row_step;
      if (row < m.row_begin || n >= m.rows || m.row_begin + n * m.row_step != row) continue;
      const int64_t slot =
          (head * p.partial_rows + m.slot + int64_t(n) * m.slot_step + m.slot_shift * item.repeat) * Shape::kDim;
#pragma unroll
      for (int j = 0; j < Shape::kDim / 8; ++j) {
        const float2 a = *reinterpret_cast<const float2*>(p.partial_dk + slot + 8 * j + column0);
        const float2 b = *reinterpret_cast<const float2*>(p.partial_dv + slot + 8 * j + column0);
        dk[4 * j + 2 * r] += a.x, dk[4 * j + 2 * r + 1] += a.y;
        dv[4 * j + 2 * r] += b.x, dv[4 * j + 2 * r + 1] += b.y;
      }
    }
    const int64_t at = item.row0 + row * item.stride;
    Element* to_dk = static_cast<Element*>(p.dk) + item.batch * p.dk_batch_stride + at * p.dk_len_stride +
                     item.kv_head * p.dk_head_stride;
    Element* to_dv = static_cast<Element*>(p.dv) + item.batch * p.dv_batch_stride + at * p.dv_len_stride +
                     item.kv_head * p.dv_head_stride;
#pragma unroll
    for (int n = 0; n < Shape::kDim / 8; ++n)
      if (8 * n + column0 < p.dim) {
        const Element a[2] = {static_cast<Element>(dk[4 * n + 2 * r] * p.scale),
                              static_cast<Element>(dk[4 * n + 2 * r + 1] * p.scale)};
        const Element b[2] = {static_cast<Element>(dv[4 * n + 2 * r] * out_scale),
                              static_cast<Element>(dv[4 * n + 2 * r + 1] * out_scale)};
        *reinterpret_cast<uint32_t*>(to_dk + 8 * n + column0) = *reinterpret_cast<const uint32_t*>(a);
        *reinterpret_cast<uint32_t*>(to_dv + 8 * n + column0) = *reinterpret_cast<const uint32_t*>(b);
      }
  }
}

}  // namespace longstride::engine::cuda::sm90
