// The forward at dims that registers don't hold: one tile of queries against its runs of keys, one block of the grid
// each. Scores pass through shared memory, where a few threads a row make the softmax. Launched by launch.cuh.
#pragma once

#include "engine/cuda/sm80/store.cuh"
#include "engine/cuda/tile/alibi.cuh"
#include "engine/cuda/tile/dropout.cuh"
#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

template <class Shape>
struct WideForwardStorage {
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

// One row's softmax by kLanes threads, `lane` of them.
template <class Shape>
__device__ __forceinline__ void softmax_step(const Values& p, const ColumnBlock& b, const TilePlace& place, int row0,
                                             WideForwardStorage<Shape>& s) {
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

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kForwardBlocks)
    wide_forward_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<WideForwardStorage<Shape>*>(memory);
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
  ForwardWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns,
                   steps_of(p.plan_tokens, place.stride));
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
    adjust_scores(p, head, row0, b.column0, place.stride, of_scores, scores);
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
