// The online softmax of the forward's consumers, on the accumulators of one product, and the store of a finished tile.
// A thread has two rows of its warpgroup's 64 and, of every eight columns, two.
#pragma once

#include <cstdint>

#include "engine/cuda/sm90/forward_values.h"

namespace longstride::engine::cuda::sm90 {

// The two rows of a thread: 64 * warpgroup + 16 * warp + lane / 4, and 8 further. Its columns of an accumulator: pair
// 2 * (lane % 4) of every eight.
struct RowState {
  float max[2];  // log2 units, of scale * score + log2 weight
  float sum[2];  // of this thread's columns only, until the end
};

template <class Shape, class Scores>
__device__ __forceinline__ void mask(Scores& scores, const BlockNote& b, int row0) {
  const int column0 = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const int end = row >= (b.rows & 0xffff) && row < b.rows >> 16 ? min(b.columns, row + b.diagonal) : 0;
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = 8 * n + column0 + c < end ? x : -INFINITY;
      }
    }
  }
}

// Turns scores into probabilities in place; `rescale` is what the old output must be multiplied with.
template <class Shape, class Scores>
__device__ __forceinline__ void soften(Scores& scores, RowState& state, float (&rescale)[2], float scale_log2,
                                       float weight_log2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = scores[2 * r];
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) top = fmaxf(top, scores[4 * n + 2 * r + c]);
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float was = state.max[r];
    const float now = fmaxf(was, fmaf(top, scale_log2, weight_log2));
    state.max[r] = now;
    const float base = now == -INFINITY ? 0.f : now;  // nothing seen yet: exp2(-inf - 0) = 0
    rescale[r] = exp2f(was - base);
    const float shift = weight_log2 - base;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = exp2f(fmaf(x, scale_log2, shift));
        sum += x;
      }
    state.sum[r] = fmaf(state.sum[r], rescale[r], sum);
  }
}

template <class Shape, class Output>
__device__ __forceinline__ void store(const ForwardParams& p, const ItemNote& item, RowState& state, Output& output,
                                      int row0) {
  using Element = typename Shape::Element;
  constexpr float kLn2 = 0.693147180559945309f;
  const int column0 = 2 * (threadIdx.x % 4);
  const int64_t head = int64_t(item.batch) * p.heads + item.head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = row0 + 8 * r;
    if (row >= item.rows) continue;
    float max = state.max[r];
    float keep = 1;  // what the accumulated output counts in units of 2^max
    for (int i = 0; i < item.phantom_count; ++i) {
      const Phantoms ph = p.plan.phantoms[item.phantom_begin + i];
      if (row < ph.row_begin || row >= ph.row_end) continue;
      const float now = fmaxf(max, 0.f);
      const float factor = exp2f(max - now);
      sum = sum * factor + float(ph.count) * exp2f(-now);
      keep *= factor;
      max = now;
    }
    // -inf where nothing is seen; NaN stays NaN.
    float lse = sum == 0.f ? -INFINITY : max * kLn2 + logf(sum);
    float factor = sum == 0.f ? 0.f : keep / sum * p.dropout.gain;
    if (p.partial) {
      const int64_t slot = head * p.partial_rows + item.slot + row;
      if (column0 == 0) p.partial_lse[slot] = lse;
      float* to = p.partial_out + slot * Shape::kDim;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n)
        *reinterpret_cast<float2*>(to + 8 * n + column0) =
            make_float2(output[4 * n + 2 * r] * factor, output[4 * n + 2 * r + 1] * factor);
      continue;
    }
    for (int i = 0; i < item.merge_count; ++i) {
      const Merge m = p.plan.merges[item.merge_begin + i];
      const int n = (row - m.row_begin) / m.row_step;
      if (row < m.row_begin || n >= m.rows || m.row_begin + n * m.row_step != row) continue;
      const int64_t slot = head * p.partial_rows + m.slot + int64_t(n) * m.slot_step + m.slot_shift * item.repeat;
      const float other = p.partial_lse[slot];
      if (other == -INFINITY) continue;
      const float top = fmaxf(lse, other);
      const float mine = lse == -INFINITY ? 0.f : expf(lse - top), theirs = expf(other - top);
      const float scale = 1.f / (mine + theirs);
      const float* from = p.partial_out + slot * Shape::kDim;
#pragma unroll
      for (int j = 0; j < Shape::kDim / 8; ++j) {
        const float2 x = *reinterpret_cast<const float2*>(from + 8 * j + column0);
        float& a = output[4 * j + 2 * r];
        float& b = output[4 * j + 2 * r + 1];
        a = (a * factor * mine + x.x * theirs) * scale;
        b = (b * factor * mine + x.y * theirs) * scale;
      }
      factor = 1;
      lse = top + logf(mine + theirs);
    }
    const int64_t at = item.row0 + row * item.stride;  // < len_q
    if (column0 == 0) p.lse[head * p.len_q + at] = lse;
    Element* to = static_cast<Element*>(p.out) + item.batch * p.out_batch_stride + at * p.out_len_stride +
                  item.head * p.out_head_stride;
    const float scale = factor * p.out_scale;
#pragma unroll
    for (int n = 0; n < Shape::kDim / 8; ++n)
      if (8 * n + column0 < p.dim) {
        const Element pair[2] = {static_cast<Element>(output[4 * n + 2 * r] * scale),
                                 static_cast<Element>(output[4 * n + 2 * r + 1] * scale)};
        *reinterpret_cast<uint32_t*>(to + 8 * n + column0) = *reinterpret_cast<const uint32_t*>(pair);
      }
  }
}

}  // namespace longstride::engine::cuda::sm90
