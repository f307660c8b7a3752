// The backward in float32 on tensor cores, as gradient.cuh makes it: dQ of a tile of 64 queries, dK and dV of one of 64
// keys, 16 rows a warp. P and dS stay in registers, a block of columns comes as floats while the one before is used.
// Launched by launch.cuh.
#pragma once

#include <type_traits>

#include "engine/cuda/sm80/gradient.cuh"
#include "engine/cuda/sm80/split.cuh"

namespace longstride::engine::cuda::sm80 {

// Two blocks of the grid on a multiprocessor of Hopper's, and one on Ampere's, by shared memory: at dim 128 narrow
// blocks of columns, and rows that each warp splits when it uses them.
template <int kDim>
struct SplitGradient : SplitShape<kDim> {
  static constexpr int kColumns = kDim <= 64 ? 32 : 16;
  static constexpr int kBlocks = 2;
  static constexpr int kPairs = kDim % 32 == 0 && kDim <= 64 ? 2 : 1;
  using RowTile =
      std::conditional_t<(kDim <= 64), Planes<SplitShape<kDim>::kRows, kDim>, Floats<SplitShape<kDim>::kRows, kDim>>;
};

template <class Shape>
struct SplitGradientStorage {
  typename Shape::RowTile rows_a, rows_b;                     // Q and dO, or K and V
  Planes<Shape::kColumns, Shape::kDim> columns_a, columns_b;  // K and V, or Q and dO
  alignas(16) float staged_a[Shape::kColumns * Shape::kDim];
  alignas(16) float staged_b[Shape::kColumns * Shape::kDim];
  float2 query[Shape::kRows];  // (lse, delta)
  float2 staged_query[Shape::kColumns];
  int64_t slot[Shape::kRows];
  BlockQueue queue;
};

// Q and dO of a block of the transposed plan, and its queries' (lse, delta), as stage_columns() does it.
template <class Shape>
__device__ __forceinline__ void stage_queries(const Values& p, const TilePlace& place, const ColumnBlock& b, int head,
                                              SplitGradientStorage<Shape>& s) {
  const int position = b.column0 - p.query_start;
  const int2 seen = seen_columns(b);
  stage_columns<Shape>(p.q.head<const float>(place.batch, head), p.q, position, place.stride, seen.x, seen.y, p.dim,
                       s.staged_a);
  stage_columns<Shape>(p.d_out.head<const float>(place.batch, head), p.d_out, position, place.stride, seen.x, seen.y,
                       p.dim, s.staged_b);
  const int i = threadIdx.x;
  if (i < b.columns) {
    const float2* const from =
        p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q + position + int64_t(i) * place.stride;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(cute::cast_smem_ptr_to_uint(s.staged_query + i)),
                 "l"(from)
                 : "memory");
  } else if (i < Shape::kColumns) {
    s.staged_query[i] = make_float2(INFINITY, 0.f);
  }
}

// Q, dO and (lse, delta) of a tile of queries.
template <class Shape>
__device__ __forceinline__ void load_queries(const Values& p, const TilePlace& place, const Tile& tile,
                                             SplitGradientStorage<Shape>& s) {
  const int head = query_head(p, place), position = first_row(place, tile) - p.query_start;
  load_tile(p.q.head<const float>(place.batch, head), p.q, position, place.stride, tile.rows, p.dim, s.rows_a);
  load_tile(p.d_out.head<const float>(place.batch, head), p.d_out, position, place.stride, tile.rows, p.dim, s.rows_b);
  const float2* const rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q + position;
  for (int i = threadIdx.x; i < Shape::kRows; i += Shape::kThreads)
    s.query[i] = i < tile.rows ? rows[int64_t(i) * place.stride] : make_float2(INFINITY, 0.f);
}

// The block that was staged comes to be what all warps read, and the next one is staged.
template <class Shape, class Stage>
__device__ __forceinline__ void turn_block(const Values& p, Direction direction, int members, int n,
                                           SplitGradientStorage<Shape>& s, const Stage& stage) {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();  // all warps are through with the block before
  spread_columns<Shape>(s.staged_a, s.columns_a);
  spread_columns<Shape>(s.staged_b, s.columns_b);
  if (direction == Direction::kTransposed && int(threadIdx.x) < Shape::kColumns)
    s.query[threadIdx.x] = s.staged_query[threadIdx.x];
  __syncthreads();
  stage(s.queue.block[(n + 1) % 3], s.queue.member[(n + 1) % 3]);
  take_block<Shape>(p, direction, members, n + 2, s.queue);
}

// dQ of a tile of queries. Forward plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    split_query_gradient_kernel(const __grid_constant__ Values p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<SplitGradientStorage<Shape>*>(memory);
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, p.group, Direction::kForward, 1, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  const auto stage = [&](const ColumnBlock& b, int) {
    if (b.columns > 0) stage_keys<Shape>(p, place, b, s.staged_a, s.staged_b);
  };
  stage(s.queue.block[0], 0);
  load_queries<Shape>(p, place, tile, s);
  auto dq = accumulator<Shape, Shape::kRows, Shape::kDim>();
  for (int n = 0; s.queue.block[n % 3].columns > 0; ++n) {
    turn_block(p, Direction::kForward, 1, n, s, stage);
    auto scores = multiply_rows<Shape, Rows::kQueries, Shape::kColumns / 16>(s.rows_a, s.columns_a);
    auto dp = multiply_rows<Shape, Rows::kQueries, Shape::kColumns / 16>(s.rows_b, s.columns_b);
    differentiate<Shape>(
        p, s.queue.block[n % 3], place, first_row(place, tile), query_head(p, place), false,
        [&](int row, int) { return s.query[row]; }, places<Shape, Shape::kRows, Shape::kColumns>(), scores, dp);
    RowFragment ds[Shape::kColumns / 16];
    to_rows<Shape::kColumns>(dp, ds);
    multiply_columns<Shape>(ds, s.columns_a, dq, [](int) { return 1.f; });
  }
  const int head = query_head(p, place), position = first_row(place, tile) - p.query_start;
  store_gradient<Shape>(p, tile, place, int64_t(place.batch) * p.heads + head,
                        places<Shape, Shape::kRows, Shape::kDim>(), dq, p.partial_a, p.dq, head, position,
                        p.result_scale, s);
}

// dK and dV of a tile of keys, over all query heads of its KV head. Transposed plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    split_key_gradient_kernel(const __grid_constant__ Values p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<SplitGradientStorage<Shape>*>(memory);
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, 1, Direction::kTransposed, p.group, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  const auto stage = [&](const ColumnBlock& b, int member) {
    if (b.columns > 0) stage_queries<Shape>(p, place, b, place.kv_head * p.group + member, s);
  };
  stage(s.queue.block[0], 0);
  load_tile(p.k.head<const float>(place.batch, place.kv_head), p.k, first_row(place, tile), place.stride, tile.rows,
            p.dim, s.rows_a);
  load_tile(p.v.head<const float>(place.batch, place.kv_head), p.v, first_row(place, tile), place.stride, tile.rows,
            p.dim, s.rows_b);
  auto dk = accumulator<Shape, Shape::kRows, Shape::kDim>();
  auto dv = accumulator<Shape, Shape::kRows, Shape::kDim>();
  for (int n = 0; s.queue.block[n % 3].columns > 0; ++n) {
    turn_block(p, Direction::kTransposed, p.group, n, s, stage);
    auto scores = multiply_rows<Shape, Rows::kKeys, Shape::kColumns / 16>(s.rows_a, s.columns_a);
    auto dp = multiply_rows<Shape, Rows::kKeys, Shape::kColumns / 16>(s.rows_b, s.columns_b);
    differentiate<Shape>(
        p, s.queue.block[n % 3], place, first_row(place, tile), place.kv_head * p.group + s.queue.member[n % 3], true,
        [&](int, int column) { return s.query[column]; }, places<Shape, Shape::kRows, Shape::kColumns>(), scores, dp);
    RowFragment rows[Shape::kColumns / 16];
    const auto once = [](int) { return 1.f; };
    to_rows<Shape::kColumns>(scores, rows);
    multiply_columns<Shape>(rows, s.columns_b, dv, once);
    to_rows<Shape::kColumns>(dp, rows);
    multiply_columns<Shape>(rows, s.columns_a, dk, once);
  }
  const int64_t head_of_all = int64_t(place.batch) * p.kv_heads + place.kv_head;
  const auto of = places<Shape, Shape::kRows, Shape::kDim>();
  store_gradient<Shape>(p, tile, place, head_of_all, of, dk, p.partial_a, p.dk, place.kv_head, first_row(place, tile),
                        p.result_scale, s);
  store_gradient<Shape>(p, tile, place, head_of_all, of, dv, p.partial_b, p.dv, place.kv_head, first_row(place, tile),
                        p.out_scale * p.dropout.gain, s);
}

}  // namespace longstride::engine::cuda::sm80
