// The producer of the backward kernel: one warp that walks the transposed plan, feeds the copy engine and zeroes what
// no pair uses, so that the consumers hold nothing but products. Called by backward_kernel.
#pragma once

#include "engine/cuda/sm90/backward_shape.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/locate.cuh"

namespace longstride::engine::cuda::sm90 {

// Zeroes the rows of K that no query of the tile sees. A rare tile: some lane looks at every row.
template <class Shape>
__device__ __forceinline__ void zero_unseen(typename Shape::Element* keys, const Run* runs, const Tile& tile) {
  constexpr int kPieces = Shape::kBox * sizeof(typename Shape::Element) / 16;
#pragma unroll 1
  for (int row = threadIdx.x % 32; row < tile.rows; row += 32) {
    bool seen = false;
#pragma unroll 1
    for (uint32_t i = 0; i < tile.run_count; ++i) seen = seen || seen_by(runs[i], row);
    if (seen) continue;
#pragma unroll 1
    for (int i = 0; i < Shape::kWidth / Shape::kBox * kPieces; ++i) {
      auto* box = reinterpret_cast<uint4*>(keys + (i / kPieces * Shape::kRows + row) * Shape::kBox);
      box[i % kPieces] = make_uint4(0, 0, 0, 0);
    }
  }
}

// Brings the partial results that a base tile begins with nearer, into L2, while the tile before is computed.
template <class Shape>
__device__ __forceinline__ void fetch_partials(const BackwardParams& p, const Tile& tile, const TilePlace& place) {
  const int64_t first = (int64_t(place.batch) * p.kv_heads + place.kv_head) * p.partial_rows;
#pragma unroll 1
  for (int i = 0; i < tile.merge_count; ++i) {
    const Merge& m = p.plan.merges[tile.merge_begin + i];
#pragma unroll 1
    for (int n = threadIdx.x % 32; n < m.rows; n += 32) {
      const int64_t slot = first + m.slot_at(n, place.repeat);
#pragma unroll 1
      for (int x = 0; x < Shape::kDim; x += 32) {  // 128 bytes
        asm volatile("prefetch.global.L2 [%0];" ::"l"(p.partial_dk + slot * Shape::kDim + x));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(p.partial_dv + slot * Shape::kDim + x));
      }
    }
  }
}

template <class Shape>
__device__ void produce_backward(const BackwardParams& p, const BackwardMapSet& maps, BackwardStorage<Shape>& s) {
  const int lane = threadIdx.x % 32;
  int stage = 0, phase = 1, kv_phase = 1, note = 0, raw_phase = 0;
  // Of dropout: the stream whose salts these are.
  [[maybe_unused]] uint32_t stream = 0, salt = 0;
  if constexpr (Shape::Calls::kDrops)
    if (p.dropout.seed) salt = salt_of_lane(p.dropout, stream);
  int64_t index = blockIdx.x;
  while (index < p.items) {
    const TilePlace place = locate_by_warp(p.lanes, p.lane_count, 1, index, p.plan);
    const Tile& tile = p.plan.tiles[place.tile];
    const BackwardMaps& m = maps.of_stride[place.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + place.shift;
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
    bool more = !walk.done();
    if (lane == 0) index = atomicAdd(p.ticket, 1ull) + gridDim.x;
    index = __shfl_sync(~0u, index, 0);
    fetch_partials<Shape>(p, tile, place);
    s.v_empty.wait(kv_phase);
    KeyItemNote& item = s.item[note];
    note ^= 1;
    const bool ragged = tile.rows < Shape::kRows || p.plan.ragged[place.tile];
    auto& kv_bar = ragged ? s.raw : s.kv_full;
    if (lane == 0) {
      item.row0 = row0;
      item.stride = place.stride;
      item.slot = place.slot;
      item.repeat = place.repeat;
      item.rows = tile.rows;
      item.batch = place.batch;
      item.kv_head = place.kv_head;
      item.merge_begin = tile.merge_begin;
      item.merge_count = tile.merge_count;
      item.map = place.map;
      item.blocks = more;
      item.stop = 0;
      kv_bar.arrive_and_expect_tx(2 * Shape::kKeyBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.v, p.len_k, place.stride, row0, place.kv_head, place.batch,
                                                          kv_bar, s.v);
    }
    s.k_empty.wait(kv_phase);
    kv_phase ^= 1;
    if (lane == 0)
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.k, p.len_k, place.stride, row0, place.kv_head, place.batch,
                                                          kv_bar, s.k);
    if (ragged) {
      s.raw.wait(raw_phase);
      raw_phase ^= 1;
      zero_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(s.k, tile.rows);
      zero_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(s.v, tile.rows);
      zero_unseen<Shape>(s.k, p.plan.runs + tile.run_begin, tile);
      cutlass::arch::fence_view_async_shared();
      __syncwarp();
      if (lane == 0) s.kv_full.arrive();
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
      if constexpr (Shape::Calls::kDrops) {
        if (p.dropout.seed && stream != p.dropout.stream(place.batch, head)) {
          stream = p.dropout.stream(place.batch, head);
          salt = salt_of_lane(p.dropout, stream);
        }
      }
      s.q_empty[stage].wait(phase);
      if constexpr (Shape::Calls::kDrops) {
        if (p.dropout.seed) {
          write_words<typename BackwardWords<Shape>::Columns>(query_salt(salt), now.column0, place.stride,
                                                              s.words.queries[stage]);
#pragma unroll
          for (int i = 0; i < Shape::kRows; i += 32)
            s.words.keys[stage][i + lane] = core::dropout_word(key_salt(salt), row0 + (i + lane) * place.stride);
          __syncwarp();
        }
      }
      const int32_t position = now.column0 - p.query_start;
      const float2* rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q;
      const uint32_t to = cute::cast_smem_ptr_to_uint(
          &s.row[stage][0][lane % 8 / 2 * BackwardStorage<Shape>::kQuarter + lane / 8 * 2 + lane % 2]);
#pragma unroll
      for (int step = 0; step < Shape::kColumns / 32; ++step) {
        // Rows beyond the block are not read: the mask keeps them out.
        const int i = lane + 32 * step;
        const int bytes = i < now.columns ? 4 : 0;
        const float2* from = rows + (bytes ? position + i * place.stride : 0);
        asm volatile(
            "cp.async.ca.shared.global [%0], [%2], 4, %3;\n"
            "cp.async.ca.shared.global [%1], [%2 + 4], 4, %3;" ::"r"(to + 32 * step),
            "r"(to + 32 * step + 16 * BackwardStorage<Shape>::kQuarter), "l"(from), "r"(bytes)
            : "memory");
      }
      cutlass::arch::cpasync_barrier_arrive_noinc(reinterpret_cast<uint64_t*>(&s.q_full[stage]));
      const bool tail = now.columns < Shape::kColumns;
      auto& q_bar = tail ? s.raw : s.q_full[stage];
      const int at_stage = stage * Shape::kColumns * Shape::kWidth;
      if (lane == 0) {
        KeyBlockNote& b = s.block[stage];
        b.column0 = now.column0;
        b.columns = now.columns;
        b.diagonals = now.diagonals;
        b.rows = now.rows;
        b.weight_log2 = now.weight == 1 ? 0.f : log2f(float(now.weight));
        b.masked = now.masked;
        b.last = !more;
        b.head = head;
        b.row = position / place.stride;
        b.residue = position - b.row * place.stride;
        q_bar.arrive_and_expect_tx(2 * Shape::kQueryBytes);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.q, p.len_q, place.stride, position, head, place.batch,
                                                               q_bar, s.q + at_stage);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.d_out, p.len_q, place.stride, position, head,
                                                               place.batch, q_bar, s.d_out + at_stage);
      }
      if (tail) {
        s.raw.wait(raw_phase);
        raw_phase ^= 1;
        zero_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(s.q + at_stage, now.columns);
        zero_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(s.d_out + at_stage, now.columns);
        cutlass::arch::fence_view_async_shared();
        __syncwarp();
        if (lane == 0) s.q_full[stage].arrive();
      }
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
  }
  s.v_empty.wait(kv_phase);
  s.k_empty.wait(kv_phase);
  if (lane == 0) {
    s.item[note].stop = 1;
    s.kv_full.arrive();
  }
}

}  // namespace longstride::engine::cuda::sm90
