// The portable backward, of rows made ready (lse, delta): dQ through the forward plan and dK, dV through the transposed
// one, each a tile a block of the grid and in a fixed order of additions. Launched by launch.cuh.
#pragma once

#include "engine/cuda/tile/differentiate.cuh"

namespace longstride::engine::cuda::sm80 {

template <class Shape, class Places, class Scores>
__device__ __forceinline__ void keep_scores(const Places& of, const Scores& from, typename Shape::Element* to) {
#pragma unroll
  for (int i = 0; i < cute::size(from); ++i)
    to[cute::get<0>(of(i)) * Shape::kScorePitch + cute::get<1>(of(i))] = typename Shape::Element(from(i));
}

template <class Shape>
struct GradientStorage {
  using Element = typename Shape::Element;
  alignas(16) Element rows_a[Shape::kRows * Shape::kPitch];                       // Q, or K
  alignas(16) Element rows_b[Shape::kRows * Shape::kPitch];                       // dO, or V
  alignas(16) Element columns_a[Shape::kColumns * Shape::kPitch];                 // K, or Q
  alignas(16) Element columns_b[Shape::kColumns * Shape::kPitch];                 // V, or dO
  alignas(16) Element scores[Shape::kRows * Shape::kScorePitch];                  // P and dS in turn
  float2 query[Shape::kRows > Shape::kColumns ? Shape::kRows : Shape::kColumns];  // (lse, delta)
  int64_t slot[Shape::kRows];
};

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

// dQ of a tile of queries. Forward plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kGradientBlocks)
    query_gradient_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GradientStorage<Shape>*>(memory);
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
        p, b, place, row0, head, false, [&](int row, int) { return s.query[row]; }, of_scores, scores, dp);
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
    key_gradient_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GradientStorage<Shape>*>(memory);
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
          p, b, place, row0, head, true, [&](int, int column) { return s.query[column]; }, of_scores, scores, dp);
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
