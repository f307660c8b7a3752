// The backward up to dim 128, of rows made ready (lse, delta): dQ of a tile of queries through the forward plan, dK and
// dV of a tile of keys through the transposed one, each a block of the grid and in a fixed order of additions. P and dS
// stay in registers. What differs between numbers of 16 bits and floats is how operands come: WholeTiles and
// SplitTiles. Launched by launch.cuh.
#pragma once

#include "engine/cuda/sm80/load.cuh"
#include "engine/cuda/sm80/product.cuh"
#include "engine/cuda/sm80/queue.cuh"
#include "engine/cuda/sm80/store.cuh"
#include "engine/cuda/tile/differentiate.cuh"

namespace longstride::engine::cuda::sm80 {

// As in the forward, 32 rows a warp; but where two gradients of as many rows are more than registers hold, 16 of twice
// as many warps.
constexpr bool holds_two(int dim) { return dim <= 64; }
template <class Element, int kDim>
struct QueryGradientShape : RowShape<Element, kDim, 4, 2, holds_two(kDim) ? 64 : 32, 2> {};
template <class Element, int kDim>
struct KeyGradientShape
    : RowShape<Element, kDim, holds_two(kDim) ? 4 : 8, holds_two(kDim) ? 2 : 1, 32, holds_two(kDim) ? 2 : 1> {};

// Two blocks of the grid on a multiprocessor of Hopper's, and one on Ampere's, by shared memory: at dim 128 narrow
// blocks of columns, and rows that each warp splits when it uses them.
template <int kDim>
struct SplitGradientShape : RowShape<float, kDim, 4, 1, kDim <= 64 ? 32 : 16, 2> {
  static constexpr int kRowPairs = SplitGradientShape::kColumns / 16;
  static constexpr int kPairs = kDim % 32 == 0 && kDim <= 64 ? 2 : 1;
};
template <int kDim>
struct QueryGradientShape<float, kDim> : SplitGradientShape<kDim> {};
template <int kDim>
struct KeyGradientShape<float, kDim> : SplitGradientShape<kDim> {};

// Operands a and b of the tile's rows, Q and dO or K and V, and those of a block of columns, K and V or Q and dO.
// begin() comes before the first block; turn() makes a block ready, for all warps at once; after done_with_b() its b
// and its queries' (lse, delta), if columns are queries, are read no more. Both have the next block on its way, which
// stage_a() and stage_b() bring.

// 16 bits. The first operand of a block is used first and last, so that the next one needs a place of its own.
template <class Shape>
struct WholeTiles {
  Planes<1, Shape::kRows, Shape::kDim> rows_a, rows_b;
  Planes<1, Shape::kColumns, Shape::kDim> a[2], b;
  float2 query[Shape::kRows];  // (lse, delta)

  template <class StageA, class StageB>
  __device__ __forceinline__ void begin(const StageA& stage_a, const StageB& stage_b) {
    stage_a(Cursor(), a[0]);
    stage_b(Cursor(), b, query);
  }
  template <class StageA, class StageB>
  __device__ __forceinline__ void turn(const Cursor& next, bool, const StageA& stage_a, const StageB&) {
    await_copies();
    __syncthreads();  // all warps are through with the block before
    stage_a(next, a[next.before % 2]);
  }
  __device__ __forceinline__ const auto& columns_a(const Cursor& c) const { return a[c.before % 2]; }
  __device__ __forceinline__ const auto& columns_b() const { return b; }
  template <class StageB>
  __device__ __forceinline__ void done_with_b(const Cursor& next, const StageB& stage_b) {
    __syncthreads();
    stage_b(next, b, query);
  }
};

// Floats come while the block before is used, and are split for all warps.
template <class Shape>
struct SplitTiles {
  using RowTile =
      std::conditional_t<(Shape::kDim <= 64), Planes<3, Shape::kRows, Shape::kDim>, Floats<Shape::kRows, Shape::kDim>>;
  RowTile rows_a, rows_b;
  Planes<3, Shape::kColumns, Shape::kDim> a, b;
  Staged<Shape::kColumns, Shape::kDim> staged_a, staged_b;
  float2 query[Shape::kRows];  // (lse, delta)
  float2 staged_query[Shape::kColumns];

  template <class StageA, class StageB>
  __device__ __forceinline__ void begin(const StageA& stage_a, const StageB& stage_b) {
    stage_a(Cursor(), staged_a);
    stage_b(Cursor(), staged_b, staged_query);
  }
  template <class StageA, class StageB>
  __device__ __forceinline__ void turn(const Cursor& next, bool queries, const StageA& stage_a, const StageB& stage_b) {
    await_copies();
    __syncthreads();  // all warps are through with the block before
    spread_columns<Shape>(staged_a, a);
    spread_columns<Shape>(staged_b, b);
    if (queries && int(threadIdx.x) < Shape::kColumns) query[threadIdx.x] = staged_query[threadIdx.x];
    __syncthreads();
    stage_a(next, staged_a);
    stage_b(next, staged_b, staged_query);
  }
  __device__ __forceinline__ const auto& columns_a(const Cursor&) const { return a; }
  __device__ __forceinline__ const auto& columns_b() const { return b; }
  template <class StageB>
  __device__ __forceinline__ void done_with_b(const Cursor&, const StageB&) {}
};

template <class Shape>
struct GradientStorage {
  std::conditional_t<Shape::kParts == 1, WholeTiles<Shape>, SplitTiles<Shape>> tiles;
  int64_t slot[Shape::kRows];
  BlockQueue queue;
};

// (lse, delta) of a block's queries, as stage_columns() does it.
template <class Shape>
__device__ __forceinline__ void stage_rows_info(const Values& p, const TilePlace& place, const ColumnBlock& b, int head,
                                                float2* to) {
  const int i = threadIdx.x;
  if (i < b.columns) {
    const float2* const from = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q + b.column0 - p.query_start +
                               int64_t(i) * place.stride;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(cute::cast_smem_ptr_to_uint(to + i)), "l"(from)
                 : "memory");
  } else if (i < Shape::kColumns) {
    to[i] = make_float2(INFINITY, 0.f);
  }
}

// Q, dO and (lse, delta) of a tile of queries.
template <class Shape, class Tiles>
__device__ __forceinline__ void load_queries(const Values& p, const TilePlace& place, const Tile& tile, Tiles& s) {
  using Element = typename Shape::Element;
  const int head = query_head(p, place), position = first_row(place, tile) - p.query_start;
  load_tile<Shape>(p.q.head<const Element>(place.batch, head), p.q, position, place.stride, tile.rows, p.dim, s.rows_a);
  load_tile<Shape>(p.d_out.head<const Element>(place.batch, head), p.d_out, position, place.stride, tile.rows, p.dim,
                   s.rows_b);
  const float2* const rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q + position;
  for (int i = threadIdx.x; i < Shape::kRows; i += Shape::kThreads)
    s.query[i] = i < tile.rows ? rows[int64_t(i) * place.stride] : make_float2(INFINITY, 0.f);
}

// dQ of a tile of queries. Forward plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    query_gradient_kernel(const __grid_constant__ Values p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GradientStorage<Shape>*>(memory);
  auto& tiles = s.tiles;
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, p.group, Direction::kForward, 1, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  const auto stage = [&](const Cursor& c, const Input& t, auto& to) {
    if (s.queue.done(c)) return;
    const ColumnBlock b = s.queue.block(c);
    stage_columns<Shape>(t.head<const typename Shape::Element>(place.batch, place.kv_head), t, b.column0, place.stride,
                         b, p.dim, to);
  };
  const auto stage_a = [&](const Cursor& c, auto& to) { stage(c, p.k, to); };
  const auto stage_b = [&](const Cursor& c, auto& to, float2*) { stage(c, p.v, to); };
  tiles.begin(stage_a, stage_b);
  load_queries<Shape>(p, place, tile, tiles);
  auto dq = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const bool exact = *p.exact != 0;
  for (Cursor c; !s.queue.done(c); c = s.queue.after(c)) {
    tiles.turn(s.queue.after(c), false, stage_a, stage_b);
    take_ahead<Shape>(p, Direction::kForward, 1, c, s.queue);
    ColumnTerms<Shape> ds;
    {
      auto scores = multiply_rows<Shape, Rows::kQueries>(tiles.rows_a, tiles.columns_a(c));
      auto dp = multiply_rows<Shape, Rows::kQueries>(tiles.rows_b, tiles.columns_b());
      tiles.done_with_b(s.queue.after(c), stage_b);
      differentiate<Shape>(
          p, s.queue.block(c), place, first_row(place, tile), query_head(p, place), false, exact,
          [&](int row, int) { return tiles.query[row]; }, places<Shape, Shape::kRows, Shape::kColumns>(), scores, dp);
      to_rows<Shape>(dp, ds);
    }
    multiply_columns<Shape>(ds, tiles.columns_a(c), dq, AsItIs());
  }
  await_copies();
  const int head = query_head(p, place), position = first_row(place, tile) - p.query_start;
  store_gradient<Shape>(p, tile, place, int64_t(place.batch) * p.heads + head,
                        places<Shape, Shape::kRows, Shape::kDim>(), dq, p.partial_a, p.dq, head, position,
                        p.result_scale, s);
}

// dK and dV of a tile of keys, over all query heads of its KV head. Transposed plan.
template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    key_gradient_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GradientStorage<Shape>*>(memory);
  auto& tiles = s.tiles;
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, 1, Direction::kTransposed, p.group, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  const auto head_of = [&](const Cursor& c) { return place.kv_head * p.group + s.queue.member[c.entry % 3]; };
  const auto stage = [&](const Cursor& c, const Input& t, auto& to) {
    const ColumnBlock b = s.queue.block(c);
    stage_columns<Shape>(t.head<const Element>(place.batch, head_of(c)), t, b.column0 - p.query_start, place.stride, b,
                         p.dim, to);
  };
  const auto stage_a = [&](const Cursor& c, auto& to) {
    if (!s.queue.done(c)) stage(c, p.q, to);
  };
  const auto stage_b = [&](const Cursor& c, auto& to, float2* query) {
    if (s.queue.done(c)) return;
    stage(c, p.d_out, to);
    stage_rows_info<Shape>(p, place, s.queue.block(c), head_of(c), query);
  };
  tiles.begin(stage_a, stage_b);
  load_tile<Shape>(p.k.head<const Element>(place.batch, place.kv_head), p.k, first_row(place, tile), place.stride,
                   tile.rows, p.dim, tiles.rows_a);
  load_tile<Shape>(p.v.head<const Element>(place.batch, place.kv_head), p.v, first_row(place, tile), place.stride,
                   tile.rows, p.dim, tiles.rows_b);
  auto dk = accumulator<Shape, Shape::kRows, Shape::kDim>();
  auto dv = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const bool exact = *p.exact != 0;
  for (Cursor c; !s.queue.done(c); c = s.queue.after(c)) {
    tiles.turn(s.queue.after(c), true, stage_a, stage_b);
    take_ahead<Shape>(p, Direction::kTransposed, p.group, c, s.queue);
    auto scores = multiply_rows<Shape, Rows::kKeys>(tiles.rows_a, tiles.columns_a(c));
    auto dp = multiply_rows<Shape, Rows::kKeys>(tiles.rows_b, tiles.columns_b());
    differentiate<Shape>(
        p, s.queue.block(c), place, first_row(place, tile), head_of(c), true, exact,
        [&](int, int column) { return tiles.query[column]; }, places<Shape, Shape::kRows, Shape::kColumns>(), scores,
        dp);
    ColumnTerms<Shape> rows;
    to_rows<Shape>(scores, rows);
    multiply_columns<Shape>(rows, tiles.columns_b(), dv, AsItIs());
    tiles.done_with_b(s.queue.after(c), stage_b);
    to_rows<Shape>(dp, rows);
    multiply_columns<Shape>(rows, tiles.columns_a(c), dk, AsItIs());
  }
  await_copies();
  const int64_t head_of_all = int64_t(place.batch) * p.kv_heads + place.kv_head;
  const auto of = places<Shape, Shape::kRows, Shape::kDim>();
  store_gradient<Shape>(p, tile, place, head_of_all, of, dk, p.partial_a, p.dk, place.kv_head, first_row(place, tile),
                        p.result_scale, s);
  store_gradient<Shape>(p, tile, place, head_of_all, of, dv, p.partial_b, p.dv, place.kv_head, first_row(place, tile),
                        p.out_scale * p.dropout.gain, s);
}

}  // namespace longstride::engine::cuda::sm80
