// The portable forward kernel: one tile of queries against its runs of keys, one block of the grid each. Scores pass
// through shared memory, where a few threads a row make the softmax. Launched by launch.cuh.
#pragma once

#include <cmath>

#include "engine/cuda/tile/alibi.cuh"
#include "engine/cuda/tile/dropout.cuh"
#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

template <class Shape>
struct ForwardStorage {
  using Element = typename Shape::Element;
  alignas(16) Element q[Shape::kRows * Shape::kPitch];
  alignas(16) Element k[Shape::kColumns * Shape::kPitch];
  alignas(16) Element v[Shape::kColumns * Shape::kPitch];
  alignas(16) float scores[Shape::kRows * (Shape::kColumns + 1)];
  alignas(16) Element probabilities[Shape::kRows * Shape::kScorePitch];
  float most[Shape::kRows];    // greatest score of a row so far, as the product left it (negated if scale < 0)
  float sum[Shape::kRows];     // of weight * exp(scale * (score - most))
  float factor[Shape::kRows];  // what out so far is multiplied with
  float other[Shape::kRows];   // what a partial result is multiplied with
  int64_t slot[Shape::kRows];
};

// weight * exp(scale * (x - most)), for rows that have seen nothing (most = -inf) too. NaN stays NaN.
__device__ __forceinline__ float exp_below(const Values& p, float x, float most, float weight_log2 = 0) {
  return exp2_unit(fmaf(x - (most == -INFINITY ? 0.f : most), p.scale_log2, weight_log2));
}

// One row's softmax by kLanes threads, `lane` of them.
template <class Shape>
__device__ __forceinline__ void softmax_step(const Values& p, const ColumnBlock& b, const TilePlace& place, int row0,
                                             ForwardStorage<Shape>& s) {
  constexpr int kLanes = Shape::kThreads / Shape::kRows;
  const int row = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const float* scores = s.scores + row * (Shape::kColumns + 1);
  float most = -INFINITY;
  for (int i = lane; i < Shape::kColumns; i += kLanes) most = fmaxf(most, scores[i]);
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  const float before = s.most[row], weight = weight_log2(b);
  most = fmaxf(most, before);
  DropoutSalts salts = {};
  if (p.dropout.seed)
    salts = dropout_salts(p.dropout, p.dropout.stream(place.batch, place.kv_head * p.group + place.member));
  float sum = 0;
  for (int i = lane; i < Shape::kColumns; i += kLanes) {
    float x = exp_below(p, scores[i], most, weight);
    sum += x;
    if (p.dropout.seed && is_dropped(p.dropout, salts, row0 + row * place.stride, b.column0 + i * place.stride)) x = 0;
    s.probabilities[row * Shape::kScorePitch + i] = typename Shape::Element(x);
  }
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  __syncwarp();  // all lanes of the row have read s.most
  if (lane == 0) {
    const float factor = exp_below(p, before, most);
    s.most[row] = most;
    s.sum[row] = s.sum[row] * factor + sum;
    s.factor[row] = factor;
  }
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
                                           const Storage& s) {
  using Element = typename Shape::Element;
  const float gain = p.partial ? 1.f : p.out_scale * p.dropout.gain;
#pragma unroll
  for (int i = 0; i < cute::size(out); ++i) {
    const int row = cute::get<0>(of_out(i)), x = cute::get<1>(of_out(i));
    if (row >= tile.rows) continue;
    const float value = s.sum[row] == 0.f ? 0.f : out(i) / s.sum[row] * gain;
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

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kForwardBlocks)
    forward_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<ForwardStorage<Shape>*>(memory);
  const TilePlace place = locate(p.lanes, p.lane_count, p.group, blockIdx.x, p.plan);
  const Tile& tile = p.plan.tiles[place.tile];
  const int row0 = static_cast<int>(tile.row0) + place.shift;
  const int head = place.kv_head * p.group + place.member;
  const int64_t head_of_all = int64_t(place.batch) * p.heads + head;
  load_rows<Shape, Shape::kRows>(p.q.head<const Element>(place.batch, head), p.q, row0 - p.query_start, place.stride, 0,
                                 tile.rows, p.dim, s.q);
  if (threadIdx.x < Shape::kRows) {
    int64_t phantoms = 0;
    for (int n = 0; n < tile.phantom_count; ++n) {
      const Phantoms& f = p.plan.phantoms[tile.phantom_begin + n];
      if (int(threadIdx.x) >= f.row_begin && int(threadIdx.x) < f.row_end) phantoms += f.count;
    }
    s.most[threadIdx.x] = phantoms > 0 ? 0.f : -INFINITY;
    s.sum[threadIdx.x] = static_cast<float>(phantoms);
  }
  auto out = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const auto of_out = places<Shape, Shape::kRows, Shape::kDim>();
  const auto of_scores = places<Shape, Shape::kRows, Shape::kColumns>();
  BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns);
  for (; !walk.done(); walk.advance()) {
    const ColumnBlock b = walk.at(tile.rows, place.stride, place.shift);
    const int2 seen = seen_columns(b);
    __syncthreads();
    load_rows<Shape, Shape::kColumns>(p.k.head<const Element>(place.batch, place.kv_head), p.k, b.column0, place.stride,
                                      seen.x, seen.y, p.dim, s.k);
    load_rows<Shape, Shape::kColumns>(p.v.head<const Element>(place.batch, place.kv_head), p.v, b.column0, place.stride,
                                      seen.x, seen.y, p.dim, s.v);
    arrived();
    auto scores = accumulator<Shape, Shape::kRows, Shape::kColumns>();
    multiply<Shape>(matrix<Shape::kRows, Shape::kDim, Shape::kPitch>(s.q),
                    matrix<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.k), scores);
    add_alibi(p.alibi, head, row0, b.column0, place.stride, of_scores, scores);
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i) {
      const int row = cute::get<0>(of_scores(i)), column = cute::get<1>(of_scores(i));
      s.scores[row * (Shape::kColumns + 1) + column] =
          b.masked && !pair(b, row, column) ? -INFINITY : copysignf(1.f, p.scale) * scores(i);
    }
    __syncthreads();
    softmax_step<Shape>(p, b, place, row0, s);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < cute::size(out); ++i) out(i) *= s.factor[cute::get<0>(of_out(i))];
    multiply<Shape>(matrix<Shape::kRows, Shape::kColumns, Shape::kScorePitch>(s.probabilities),
                    transposed<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.v), out);
  }
  __syncthreads();
  if (!p.partial) merge_partials<Shape>(p, tile, place, head_of_all, of_out, out, s);
  __syncthreads();
  store_rows<Shape>(p, tile, place, head, head_of_all, row0, of_out, out, s);
}

}  // namespace longstride::engine::cuda::sm80
