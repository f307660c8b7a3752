// The producer of the backward kernel of float32: one warp that walks the transposed plan, feeds the copy engine and
// zeroes what no pair uses. Called by float_backward_kernel.
#pragma once

#include "engine/cuda/sm90/backward_load.cuh"
#include "engine/cuda/sm90/float_backward_shape.cuh"
#include "engine/cuda/sm90/gradient_notes.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Shape>
__device__ void produce_float_backward(const FloatBackwardParams& p, const GradientMapSet& maps,
                                       FloatBackwardStorage<Shape>& s) {
  constexpr int kTile = FloatBackwardStorage<Shape>::kTile;
  constexpr int kPart = Shape::kRows * Shape::kWidth;
  const int lane = threadIdx.x % 32;
  int stage = 0, phase = 1, rows_phase = 1, note = 0, raw_phase = 0;
  // A block's Q or dO.
  const auto load = [&](const MapPair& map, const TilePlace& place, int position, int head, int columns, auto& full,
                        typename Shape::Element* to) {
    const bool tail = columns < Shape::kColumns;
    auto& bar = tail ? s.raw : full;
    if (lane == 0) {
      bar.arrive_and_expect_tx(Shape::kTileBytes);
      load_parts<Shape, Shape::kColumns>(map, p.len_q, place.stride, position, head, place.batch, p.batch, bar, to);
    }
    if (!tail) return;
    s.raw.wait(raw_phase);
    raw_phase ^= 1;
    zero_parts<Shape, Shape::kColumns>(to, columns);
    cutlass::arch::fence_view_async_shared();
    __syncwarp();
    if (lane == 0) full.arrive();
  };
  int64_t index = blockIdx.x;
  while (index < p.items) {
    const TilePlace place = locate_by_warp(p.lanes, p.lane_count, 1, index, p.plan);
    const Tile& tile = p.plan.tiles[place.tile];
    const GradientMaps& m = maps.of_stride[place.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + place.shift;
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
    bool more = !walk.done();
    if (lane == 0) index = atomicAdd(p.ticket, 1ull) + gridDim.x;
    index = __shfl_sync(~0u, index, 0);
    const bool ragged = tile.rows < Shape::kRows || p.plan.ragged[place.tile];
    auto& bar = ragged ? s.raw : s.rows_full;
    s.rows_empty.wait(rows_phase);
    rows_phase ^= 1;
    if (lane == 0) {
      write_note(place, tile, place.kv_head, row0, more, s.item[note]);
      bar.arrive_and_expect_tx(2 * Shape::kTileBytes);
      load_parts<Shape, Shape::kRows>(m.row, p.len_k, place.stride, row0, place.kv_head, place.batch, p.batch, bar,
                                      s.k);
      load_parts<Shape, Shape::kRows>(m.row_pair, p.len_k, place.stride, row0, place.kv_head, place.batch, p.batch, bar,
                                      s.v);
    }
    note ^= 1;
    if (ragged) {
      s.raw.wait(raw_phase);
      raw_phase ^= 1;
      zero_parts<Shape, Shape::kRows>(s.k, tile.rows);
      zero_parts<Shape, Shape::kRows>(s.v, tile.rows);
#pragma unroll 1
      for (int part = 0; part < Shape::kParts; ++part)
        zero_unseen<Shape>(s.k + part * kPart, p.plan.runs + tile.run_begin, tile);
      cutlass::arch::fence_view_async_shared();
      __syncwarp();
      if (lane == 0) s.rows_full.arrive();
    }
    for (int member = 0; more;) {
      const ColumnBlock now = walk.at(tile.rows, place.stride, place.shift);
      const int head = place.kv_head * p.group + member;
      walk.advance();
      if (walk.done()) {
        if (++member == p.group) {
          more = false;
        } else {
          walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
        }
      }
      const int32_t position = now.column0 - p.query_start;
      s.d_empty[stage].wait(phase);
      load(m.column_pair, place, position, head, now.columns, s.d_full[stage], s.d_out + stage * kTile);
      s.q_empty[stage].wait(phase);
      const float2* rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q;
#pragma unroll
      for (int i = lane; i < Shape::kColumns; i += 32) {
        const int bytes = i < now.columns ? 8 : 0;  // what is not read the mask keeps out
        const float2* from = rows + (bytes ? position + int64_t(i) * place.stride : 0);
        asm volatile(
            "cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(cute::cast_smem_ptr_to_uint(&s.values[stage][i])),
            "l"(from), "r"(bytes)
            : "memory");
      }
      cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&s.q_full[stage]));
      if (lane == 0) write_note(now, head, !more, s.block[stage]);
      load(m.column, place, position, head, now.columns, s.q_full[stage], s.q + stage * kTile);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
  }
  s.rows_empty.wait(rows_phase);
  if (lane == 0) {
    s.item[note].stop = 1;
    s.rows_full.arrive();
  }
}

}  // namespace longstride::engine::cuda::sm90
