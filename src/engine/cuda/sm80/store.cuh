// What becomes of a tile's results: partial ones are kept in their slots, others merged with those of earlier levels
// and stored where they belong. Used by all kernels of this folder.
#pragma once

#include <cmath>

#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

// weight * exp(scale * (x - most)), for rows that have seen nothing (most = -inf) too. NaN stays NaN.
__device__ __forceinline__ float exp_below(const Values& p, float x, float most, float weight_log2 = 0) {
  return exp2_unit(fmaf(x - (most == -INFINITY ? 0.f : most), p.scale_log2, weight_log2));
}

// Adds the partial results of a base tile's rows to out and the rows' sums.
template <class Shape, class Out, class Places, class Storage>
__device__ __forceinline__ void merge_partials(const Values& p, const Tile& tile, const TilePlace& place, int64_t head,
                                               const Places& of, Out& out, Storage& s) {
  for (int n = 0; n < tile.merge_count; ++n) {
    const Merge m = p.plan.merges[tile.merge_begin + n];
    __syncthreads();
    if (threadIdx.x < Shape::kRows) {
      const int row = threadIdx.x;
      const int64_t slot = row < tile.rows ? m.slot_of_row(row, place.repeat) : -1;
      s.slot[row] = slot < 0 ? -1 : head * p.partial_rows + slot;
      const float2 theirs = slot < 0 ? make_float2(-INFINITY, 0.f) : p.partial_softmax[s.slot[row]];
      const float most = fmaxf(s.most[row], theirs.x);
      s.factor[row] = exp_below(p, s.most[row], most);
      s.other[row] = theirs.y * exp_below(p, theirs.x, most);
      s.sum[row] = s.sum[row] * s.factor[row] + s.other[row];
      s.most[row] = most;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < cute::size(out); ++i) {
      const int row = cute::get<0>(of(i));
      if (s.slot[row] >= 0)
        out(i) = out(i) * s.factor[row] + s.other[row] * p.partial_a[s.slot[row] * Shape::kDim + cute::get<1>(of(i))];
    }
  }
}

// A tile's rows to their slots (partial), or to out and lse. Rows' sums are of undropped probabilities, and so is the
// lse.
template <class Shape, class Places, class Out, class Storage>
__device__ __forceinline__ void store_rows(const Values& p, const Tile& tile, const TilePlace& place, int head,
                                           int64_t head_of_all, int row0, const Places& of_out, const Out& out,
                                           Storage& s) {
  using Element = typename Shape::Element;
  if (threadIdx.x < Shape::kRows) {
    const float sum = s.sum[threadIdx.x], gain = p.partial ? 1.f : p.out_scale * p.dropout.gain;
    s.factor[threadIdx.x] = sum == 0.f ? 0.f : gain / sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < cute::size(out); ++i) {
    const int row = cute::get<0>(of_out(i)), x = cute::get<1>(of_out(i));
    if (row >= tile.rows) continue;
    const float value = s.factor[row] == 0.f ? 0.f : out(i) * s.factor[row];
    if (p.partial) {
      p.partial_a[(head_of_all * p.partial_rows + place.slot + row) * Shape::kDim + x] = value;
    } else if (x < p.dim) {
      const int64_t at = row0 - p.query_start + int64_t(row) * place.stride;
      store_element<Element>(p, p.out, place.batch, head, at * p.out.len_stride + x, value);
    }
  }
  if (int(threadIdx.x) < tile.rows) {
    const float most = s.most[threadIdx.x], sum = s.sum[threadIdx.x];
    if (p.partial) {
      p.partial_softmax[head_of_all * p.partial_rows + place.slot + threadIdx.x] = make_float2(most, sum);
    } else {
      p.lse[head_of_all * p.len_q + row0 - p.query_start + int64_t(threadIdx.x) * place.stride] =
          sum == 0.f ? -INFINITY : row_lse(most, fabsf(p.scale), sum);
    }
  }
}

// A tile's gradient to its slots (partial), or with what the slots of earlier levels hold to where it belongs.
template <class Shape, class Places, class Grad, class Storage>
__device__ __forceinline__ void store_gradient(const Values& p, const Tile& tile, const TilePlace& place,
                                               int64_t head_of_all, const Places& of, Grad& grad, float* partial,
                                               const Output& to, int head, int64_t position, float scale, Storage& s) {
  float* const slots = partial + head_of_all * p.partial_rows * Shape::kDim;
  for (int n = 0; !p.partial && n < tile.merge_count; ++n) {
    const Merge m = p.plan.merges[tile.merge_begin + n];
    __syncthreads();
    if (threadIdx.x < Shape::kRows)
      s.slot[threadIdx.x] = int(threadIdx.x) < tile.rows ? m.slot_of_row(threadIdx.x, place.repeat) : -1;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < cute::size(grad); ++i) {
      const int64_t slot = s.slot[cute::get<0>(of(i))];
      if (slot >= 0) grad(i) += slots[slot * Shape::kDim + cute::get<1>(of(i))];
    }
  }
#pragma unroll
  for (int i = 0; i < cute::size(grad); ++i) {
    const int row = cute::get<0>(of(i)), x = cute::get<1>(of(i));
    if (row >= tile.rows) continue;
    if (p.partial) {
      slots[(place.slot + row) * Shape::kDim + x] = grad(i);
    } else if (x < p.dim) {
      const int64_t at = position + int64_t(row) * place.stride;
      store_element<typename Shape::Element>(p, to, place.batch, head, at * to.len_stride + x, grad(i) * scale);
    }
  }
}

}  // namespace longstride::engine::cuda::sm80
