// The backward at dims that registers don't hold, of rows made ready (lse, delta): dQ through the forward plan and dK,
// dV through the transposed one, each a tile a block of the grid and in a fixed order of additions. P and dS pass
// through shared memory. Launched by launch.cuh.
#pragma once

#include "engine/cuda/sm80/store.cuh"
#include "engine/cuda/tile/differentiate.cuh"

namespace longstride::engine::cuda::sm80 {

template <class Shape, class Places, class Scores>
__device__ __forceinline__ void keep_scores(const Places& of, const Scores& from, typename Shape::Element* to) {
#pragma unroll
  for (int i = 0; i < cute::size(from); ++i)
    to[cute::get<0>(of(i)) * Shape::kScorePitch + cute::get<1>(of(i))] = typename Shape::Element(from(i));
}

template <class Shape>
struct WideGradientStorage {
  using Element = typename Shape::Element;
  alignas(16) Element rows_a[Shape::kRows * Shape::kPitch];                       // Q, or K
  alignas(16) Element rows_b[Shape::kRows * Shape::kPitch];                       // dO, or V
  alignas(16) Element columns_a[Shape::kColumns * Shape::kPitch];                 // K, or Q
  alignas(16) Element columns_b[Shape::kColumns * Shape::kPitch];                 // V, or dO
  alignas(16) Element scores[Shape::kRows * Shape::kScorePitch];                  // P and dS in turn
  float2 query[Shape::kRows > Shape::kColumns ? Shape::kRows : Shape::kColumns];  // (lse, delta)
  int64_t slot[Shape::kRows];
};

// dQ of a tile of queries. Forward plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kGradientBlocks)
    wide_query_gradient_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<WideGradientStorage<Shape>*>(memory);
  const TilePlace place = locate(p.lanes, p.lane_count, p.group, blockIdx.x, p.plan);
  const Tile& tile = p.plan.tiles[place.tile];
  const int row0 = static_cast<int>(tile.row0) + place.shift, position = row0 - p.query_start;
  const int head = place.kv_head * p.group + place.member;
  const int64_t head_of_all = int64_t(place.batch) * p.heads + head;
  load_rows<Shape, Shape::kRows>(p.q.head<const Element>(place.batch, head), p.q, position, place.stride, 0, tile.rows,
                                 p.dim, s.rows_a);
  load_rows<Shape, Shape::kRows>(p.d_out.head<const Element>(place.batch, head), p.d_out, position, place.stride, 0,
                                 tile.rows, p.dim, s.rows_b);
  for (int i = threadIdx.x; i < Shape::kRows; i += Shape::kThreads)
    s.query[i] = i < tile.rows ? p.rows[head_of_all * p.len_q + position + int64_t(i) * place.stride]
                               : make_float2(INFINITY, 0.f);
  auto dq = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const auto of_scores = places<Shape, Shape::kRows, Shape::kColumns>();
  BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns);
  for (; !walk.done(); walk.advance()) {
    const ColumnBlock b = walk.at(tile.rows, place.stride, place.shift);
    const int2 seen = seen_columns(b);
    __syncthreads();
    load_rows<Shape, Shape::kColumns>(p.k.head<const Element>(place.batch, place.kv_head), p.k, b.column0, place.stride,
                                      seen.x, seen.y, p.dim, s.columns_a);
    load_rows<Shape, Shape::kColumns>(p.v.head<const Element>(place.batch, place.kv_head), p.v, b.column0, place.stride,
                                      seen.x, seen.y, p.dim, s.columns_b);
    arrived();
    auto scores = accumulator<Shape, Shape::kRows, Shape::kColumns>();
    auto dp = accumulator<Shape, Shape::kRows, Shape::kColumns>();
    multiply<Shape>(matrix<Shape::kRows, Shape::kDim, Shape::kPitch>(s.rows_a),
                    matrix<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_a), scores);
    multiply<Shape>(matrix<Shape::kRows, Shape::kDim, Shape::kPitch>(s.rows_b),
                    matrix<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_b), dp);
    differentiate<Shape>(
        p, b, place, row0, head, false, true, [&](int row, int) { return s.query[row]; }, of_scores, scores, dp);
    keep_scores<Shape>(of_scores, dp, s.scores);
    __syncthreads();
    multiply<Shape>(matrix<Shape::kRows, Shape::kColumns, Shape::kScorePitch>(s.scores),
                    transposed<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_a), dq);
  }
  store_gradient<Shape>(p, tile, place, head_of_all, places<Shape, Shape::kRows, Shape::kDim>(), dq, p.partial_a, p.dq,
                        head, position, p.result_scale, s);
}

// dK and dV of a tile of keys, over all query heads of its KV head. Transposed plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kGradientBlocks)
    wide_key_gradient_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<WideGradientStorage<Shape>*>(memory);
  const TilePlace place = locate(p.lanes, p.lane_count, 1, blockIdx.x, p.plan);
  const Tile& tile = p.plan.tiles[place.tile];
  const int row0 = static_cast<int>(tile.row0) + place.shift;
  load_rows<Shape, Shape::kRows>(p.k.head<const Element>(place.batch, place.kv_head), p.k, row0, place.stride, 0,
                                 tile.rows, p.dim, s.rows_a);
  load_rows<Shape, Shape::kRows>(p.v.head<const Element>(place.batch, place.kv_head), p.v, row0, place.stride, 0,
                                 tile.rows, p.dim, s.rows_b);
  auto dk = accumulator<Shape, Shape::kRows, Shape::kDim>();
  auto dv = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const auto of_scores = places<Shape, Shape::kRows, Shape::kColumns>();
  for (int member = 0; member < p.group; ++member) {
    const int head = place.kv_head * p.group + member;
    const float2* rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q;
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
    for (; !walk.done(); walk.advance()) {
      const ColumnBlock b = walk.at(tile.rows, place.stride, place.shift);
      const int position = b.column0 - p.query_start;
      const int2 seen = seen_columns(b);
      __syncthreads();
      load_rows<Shape, Shape::kColumns>(p.q.head<const Element>(place.batch, head), p.q, position, place.stride, seen.x,
                                        seen.y, p.dim, s.columns_a);
      load_rows<Shape, Shape::kColumns>(p.d_out.head<const Element>(place.batch, head), p.d_out, position, place.stride,
                                        seen.x, seen.y, p.dim, s.columns_b);
      for (int i = threadIdx.x; i < Shape::kColumns; i += Shape::kThreads)
        s.query[i] = i < b.columns ? rows[position + int64_t(i) * place.stride] : make_float2(INFINITY, 0.f);
      arrived();
      auto scores = accumulator<Shape, Shape::kRows, Shape::kColumns>();
      auto dp = accumulator<Shape, Shape::kRows, Shape::kColumns>();
      multiply<Shape>(matrix<Shape::kRows, Shape::kDim, Shape::kPitch>(s.rows_a),
                      matrix<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_a), scores);
      multiply<Shape>(matrix<Shape::kRows, Shape::kDim, Shape::kPitch>(s.rows_b),
                      matrix<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_b), dp);
      differentiate<Shape>(
          p, b, place, row0, head, true, true, [&](int, int column) { return s.query[column]; }, of_scores, scores, dp);
      keep_scores<Shape>(of_scores, scores, s.scores);
      __syncthreads();
      const auto kept = matrix<Shape::kRows, Shape::kColumns, Shape::kScorePitch>(s.scores);
      multiply<Shape>(kept, transposed<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_b), dv);
      __syncthreads();
      keep_scores<Shape>(of_scores, dp, s.scores);
      __syncthreads();
      multiply<Shape>(kept, transposed<Shape::kColumns, Shape::kDim, Shape::kPitch>(s.columns_a), dk);
    }
  }
  const int64_t head_of_all = int64_t(place.batch) * p.kv_heads + place.kv_head;
  const auto of = places<Shape, Shape::kRows, Shape::kDim>();
  store_gradient<Shape>(p, tile, place, head_of_all, of, dk, p.partial_a, p.dk, place.kv_head, row0, p.result_scale, s);
  store_gradient<Shape>(p, tile, place, head_of_all, of, dv, p.partial_b, p.dv, place.kv_head, row0,
                        p.out_scale * p.dropout.gain, s);
}

}  // namespace longstride::engine::cuda::sm80
