// Begins and ends a tile of gradient.cuh: partial levels keep float32 slots, a base tile begins with what the slots of
// its rows hold, since merging is adding.
#pragma once

#include <cute/tensor.hpp>

#include "engine/cuda/merged_rows.h"
#include "engine/cuda/sm90/gradient_values.h"
#include "engine/cuda/sm90/store_row.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Shape, class Result>
__device__ __forceinline__ void begin_gradient(const GradientParams& p, const GradientResult& of,
                                               const GradientItemNote& item, Result& result, int row0, int column0) {
  cute::clear(result);
  const int64_t head = int64_t(item.batch) * p.row_heads + item.head;
#pragma unroll 1
  for (int i = 0; i < item.merge_count; ++i) {
    const MergedRows merged(p.plan.merges[item.merge_begin + i], head * p.partial_rows, item.repeat);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t slot = row0 + 8 * r < item.rows ? merged.slot(row0 + 8 * r) : -1;
      if (slot < 0) continue;
      const float* from = of.partial + slot * Shape::kDim + column0;
#pragma unroll
      for (int j = 0; j < Shape::kDim / 8; ++j) {
        const float2 x = *reinterpret_cast<const float2*>(from + 8 * j);
        result[4 * j + 2 * r] += x.x;
        result[4 * j + 2 * r + 1] += x.y;
      }
    }
  }
}

template <class Shape, class Result>
__device__ __forceinline__ void store_gradient(const GradientParams& p, const GradientResult& of,
                                               const GradientItemNote& item, const Result& result, int row0,
                                               int column0) {
  const int64_t head = int64_t(item.batch) * p.row_heads + item.head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const bool valid = row < item.rows;
    if (p.partial) {
      if (!valid) continue;
      float* to = of.partial + (head * p.partial_rows + item.slot + row) * Shape::kDim + column0;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n)
        *reinterpret_cast<float2*>(to + 8 * n) = make_float2(result[4 * n + 2 * r], result[4 * n + 2 * r + 1]);
      continue;
    }
    const int64_t at = item.row0 + int64_t(row) * item.stride;
    const int64_t to = item.batch * of.batch_stride + at * of.len_stride + item.head * of.head_stride;
    store_result<Shape>(of.data, to, p.float32_results, valid, p.dim, result, r, of.scale);
  }
}

}  // namespace longstride::engine::cuda::sm90
