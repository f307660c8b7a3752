// The forward kernel for Hopper: one tile of queries against its runs of keys, products by WGMMA, operands by TMA.
// Launched by forward_launch.cuh, once for the partial levels of a plan and once for its base levels. Assumes 16-byte
// aligned tensors whose strides TMA takes (tensor_maps.h says which) and lengths below 2^31.
//
// Read it after forward_shape.cuh: producer (which walks the plan), consumer. That of tiles with few columns is in
// forward_short.cuh.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/alibi.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/forward_products.cuh"
#include "engine/cuda/sm90/forward_shape.cuh"
#include "engine/cuda/sm90/forward_short.cuh"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/locate.cuh"
#include "engine/cuda/sm90/pipeline.cuh"
#include "engine/cuda/sm90/softmax.cuh"

namespace longstride::engine::cuda::sm90 {

// Consumers and the producer warp meet between the two passes.
template <class Shape>
__device__ __forceinline__ void meet() {
  cutlass::arch::NamedBarrier::sync(128 * Shape::kConsumers + 32, 1);
}

// Brings the partial results that a base tile begins with nearer, into L2, while the tile before is computed.
template <class Shape>
__device__ __forceinline__ void fetch_partials(const ForwardParams& p, const Tile& tile, const TilePlace& place,
                                               int32_t head) {
  const int64_t first = (int64_t(place.batch) * p.heads + head) * p.partial_rows;
#pragma unroll 1
  for (int i = 0; i < tile.merge_count; ++i) {
    const Merge& m = p.plan.merges[tile.merge_begin + i];
#pragma unroll 1
    for (int n = threadIdx.x % 32; n < m.rows; n += 32) {
      const int64_t slot = first + m.slot_at(n, place.repeat);
      const char* row = reinterpret_cast<const char*>(p.partial_out + slot * Shape::kDim);
      asm volatile("prefetch.global.L2 [%0];" ::"l"(p.partial_softmax + slot));
#pragma unroll
      for (int byte = 0; byte < Shape::kDim * 4; byte += 128)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(row + byte));
    }
  }
}

// What the consumers are told. One lane calls it.
__device__ __forceinline__ void write_note(const TilePlace& place, const Tile& tile, int64_t index, int32_t head,
                                           int32_t row0, int32_t rows, ItemNote& item) {
  item.index = index;
  item.again = 0;
  item.row0 = row0;
  item.stride = place.stride;
  item.slot = place.slot;
  item.repeat = place.repeat;
  item.rows = rows;
  item.batch = place.batch;
  item.head = head;
  item.phantom_begin = tile.phantom_begin;
  item.phantom_count = tile.phantom_count;
  item.merge_begin = tile.merge_begin;
  item.merge_count = tile.merge_count;
  item.stop = 0;
}
__device__ __forceinline__ void write_note(const ColumnBlock& block, bool last, BlockNote& note) {
  note.column0 = block.column0;
  note.columns = block.columns;
  note.diagonals = block.diagonals;
  note.rows = block.rows;
  note.weight_log2 = block.weight == 1 ? 0.f : log2f(float(block.weight));
  note.masked = block.masked;
  note.last = last;
}

// The words of dropout of a block's keys go into the next buffer.
template <class Shape>
__device__ __forceinline__ void write_key_words(const ForwardParams& p, uint32_t salt, int32_t column0, int32_t stride,
                                                int& buffer, ForwardStorage<Shape>& s) {
  if (!p.dropout.seed) return;
  write_words<typename ForwardWords<Shape>::Columns>(key_salt(salt), column0, stride, s.words.keys[buffer]);
  if (++buffer == ForwardWords<Shape>::kBuffers) buffer = 0;
  __syncwarp();
}

// One warp; lane 0 speaks to the copy engine. kAgain: the items of the block's list instead of those that it draws.
template <class Shape, bool kAgain>
__device__ void produce(const ForwardParams& p, const MapSet& maps, ForwardStorage<Shape>& s) {
  constexpr int kRowsSize = Shape::kParts * Shape::kRows * Shape::kWidth;
  constexpr int kBlockSize = Shape::kParts * Shape::kColumns * Shape::kWidth;
  // With room for one block K is free before V is, and the next one comes while V is multiplied.
  constexpr bool kKeysAhead = Shape::kStages == 1;
  const bool first_lane = threadIdx.x % 32 == 0;
  int stage = 0, phase = 1;  // an empty buffer counts as consumed
  int query = 0, q_phase = 1, note = 0, raw_phase = 0;
  [[maybe_unused]] int words = 0;
  auto load_values = [&](int stage, int phase, const TensorMaps& m, const TilePlace& place, int column0, int columns) {
    const bool tail = columns < Shape::kColumns;
    auto* const to = s.v.data() + stage * kBlockSize;
    s.v_empty[stage].wait(phase);
    auto& bar = tail ? s.raw : s.v_full[stage];
    if (first_lane) {
      bar.arrive_and_expect_tx(Shape::kBlockBytes);
      load_parts<Shape, Shape::kColumns>(m.v, p.len_k, place.stride, column0, place.kv_head, place.batch, p.batch, bar,
                                         to);
    }
    if (!tail) return;
    s.raw.wait(raw_phase);
    raw_phase ^= 1;
    zero_parts<Shape, Shape::kColumns>(to, columns);
    cutlass::arch::fence_view_async_shared();
    __syncwarp();
    if (first_lane) s.v_full[stage].arrive();
  };
  int64_t index = kAgain ? static_cast<int64_t>(s.again) : blockIdx.x;
  while (kAgain ? index >= 0 : index < p.items) {
    const int64_t own = index;
    // Found before the wait, so that the chain of loads is over when the consumers want the next item.
    const TilePlace place = locate_by_warp(p.lanes, p.lane_count, p.group, index, p.plan);
    const Tile& tile = p.plan.tiles[place.tile];
    ForwardWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns,
                     steps_of(p.plan_tokens, place.stride));
    if constexpr (kAgain) {
      index = p.again[index];
    } else if (p.items <= gridDim.x) {
      index = p.items;  // and tickets were not made ready
    } else {
      if (first_lane) index = atomicAdd(p.ticket, 1ull) + gridDim.x;
      index = __shfl_sync(~0u, index, 0);
    }
    const TensorMaps& m = maps.of_stride[place.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + place.shift - p.query_start;
    const int32_t rows = tile.rows;
    const int32_t head = place.kv_head * p.group + place.member;
    if constexpr (Shape::kResident == 1)
      fetch_partials<Shape>(p, tile, place, head);  // else there are no registers for it
    [[maybe_unused]] uint32_t salt = 0;
    if constexpr (Shape::Calls::kDrops)
      if (p.dropout.seed) salt = salt_of_lane(p.dropout, p.dropout.stream(place.batch, head));
    s.q_empty[query].wait(q_phase);
    if (first_lane) {
      if constexpr (Shape::Calls::kDrops)
        if (p.dropout.seed) s.words.query_salt[note] = salt;
      write_note(place, tile, own, head, row0, rows, s.item[note]);
      s.q_full[query].arrive_and_expect_tx(Shape::kRowsBytes);
      load_parts<Shape, Shape::kRows>(m.q, p.len_q, place.stride, row0, head, place.batch, p.batch, s.q_full[query],
                                      s.q.data() + query * kRowsSize);
    }
    note = (note + 1) % Shape::kNotes;
    if (++query == Shape::kQueries) query = 0, q_phase ^= 1;
    // A tile that sees nothing gets one block of no columns, so that the consumers know one way only.
    bool more = true, first = true;
    int v_column0 = 0, v_columns = 0;
    while (more) {
      ColumnBlock now{0, 0, {}, 0, 1, true};
      if (!walk.done()) {
        now = walk.at(rows, place.stride, place.shift);
        walk.advance();
      }
      more = !walk.done();
      s.k_empty[stage].wait(phase);
      if constexpr (Shape::Calls::kDrops) write_key_words<Shape>(p, salt, now.column0, place.stride, words, s);
      if (first_lane) {
        write_note(now, !more, s.block[stage]);
        s.k_full[stage].arrive_and_expect_tx(Shape::kBlockBytes);
        load_parts<Shape, Shape::kColumns>(m.k, p.len_k, place.stride, now.column0, place.kv_head, place.batch, p.batch,
                                           s.k_full[stage], s.k.data() + stage * kBlockSize);
      }
      if constexpr (!kKeysAhead) {
        load_values(stage, phase, m, place, now.column0, now.columns);
      } else if (!first) {
        load_values(0, phase ^ 1, m, place, v_column0, v_columns);
      }
      v_column0 = now.column0;
      v_columns = now.columns;
      first = false;
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
    if constexpr (kKeysAhead) load_values(0, phase ^ 1, m, place, v_column0, v_columns);
  }
  s.q_empty[query].wait(q_phase);
  if (first_lane) {
    s.item[note].stop = 1;
    s.q_full[query].arrive();
  }
}

// Inlined by force: a call of it would make the compiler wait for every product.
template <class Shape, bool kExact>
__device__ __forceinline__ void consume(const ForwardParams& p, ForwardStorage<Shape>& s) {
  using namespace cute;
  int of_block = threadIdx.x;
  // Opaque to the second pass, or all that both make of it stays in registers throughout the first.
  if constexpr (kExact) asm volatile("" : "+r"(of_block));
  const int group = of_block / 128;  // consumer warpgroup
  const int thread = of_block % 128;
  const int row0 = 64 * group + 16 * (thread / 32) + (thread % 32) / 4;

  ForwardProducts<Shape> products(s, group, thread);
  auto& scores = products.scores;
  auto& output = products.output;

  // While a block is multiplied with V, the scores of the next are made and their softmax step is taken.
  int stage = 0, phase = 0, query = 0, q_phase = 0, note = 0;
  int v_stage = 0, v_phase = 0;
  bool last = false;
  float rescale[2];
  RowState state;
  ItemNote* item = &s.item[0];
  // Calls that drop alone draw while they make exponentials, which another unit does; from 128 on that spills.
  constexpr bool kDropsAtOnce = Shape::Calls::kDrops && !Shape::Calls::kAlibi && Shape::kDim <= 96;
  [[maybe_unused]] uint32_t row_words[2] = {};
  [[maybe_unused]] int words_buffer = 0;
  auto finish_scores = [&] {  // scores are there: release K (and Q), mask, step the softmax
    const BlockNote b = s.block[stage];
    last = b.last;
    release(s.k_empty[stage]);
    if (last) {
      release(s.q_empty[query]);
      if (++query == Shape::kQueries) query = 0, q_phase ^= 1;
    }
    if constexpr (Shape::kParts > 1 && kExact) mend_scores<Shape>(p, *item, b, row0, scores);
    if (p.negate)
      for (int i = 0; i < size(scores); ++i) scores[i] = -scores[i];
    if constexpr (Shape::Calls::kAlibi) {
      if (p.adjusts_scores())
        adjust_scores<Shape::kColumns>(p, item->head, p.query_start + item->row0 + row0 * item->stride,
                                       b.column0 + 2 * (thread % 4) * item->stride, item->stride, scores);
    }
    if (b.masked) mask<Shape>(scores, b, row0);
    uint4 words;
    const auto drop = [&](float x, int r, int n, int c) {
      if constexpr (Shape::Calls::kDrops) {
        if (n % 2 == 0 && c == 0) words = s.words.keys_of(words_buffer, n / 2, 2 * (thread % 4));
        const uint32_t word = n % 2 ? (c ? words.w : words.z) : (c ? words.y : words.x);
        x = drop_weight(row_words[r], word, core::dropout_share(row_words[r]), p.dropout.threshold, x);
      }
      return x;
    };
    const auto keep = [](float x, int, int, int) { return x; };
    if constexpr (kDropsAtOnce) {
      softmax_step<Shape, kExact>(scores, state, rescale, p.scale_log2, b.weight_log2, drop);
    } else {
      softmax_step<Shape, kExact>(scores, state, rescale, p.scale_log2, b.weight_log2, keep);
    }
    if constexpr (Shape::Calls::kDrops && !kDropsAtOnce) {
      if (p.dropout.seed) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float& x = scores[4 * n + 2 * r + c];
              x = drop(x, r, n, c);
            }
      }
    }
    if constexpr (Shape::Calls::kDrops)
      if (++words_buffer == ForwardWords<Shape>::kBuffers) words_buffer = 0;
    v_stage = stage;
    v_phase = phase;
    if (++stage == Shape::kStages) stage = 0, phase ^= 1;
  };
  auto next_item = [&] {
    s.q_full[query].wait(q_phase);
    item = &s.item[note];
    note = (note + 1) % Shape::kNotes;
    return !item->stop;
  };

  while (next_item()) {
    if constexpr (Shape::Calls::kDrops) {
      if (p.dropout.seed) {
#pragma unroll
        for (int r = 0; r < 2; ++r)
          row_words[r] = core::dropout_word(s.words.query_salt[item - s.item],
                                            p.query_start + item->row0 + (row0 + 8 * r) * item->stride);
      }
    }
    state = begin_rows(p, *item, row0);
    s.k_full[stage].wait(phase);
    products.multiply_scores(query, stage);
    begin_output<Shape>(p, *item, state.max, output, row0);
    warpgroup_wait<0>();
    products.take_scores();
    finish_scores();
    products.take_weights(rescale);
    while (!last) {
      const int used = v_stage;
      s.k_full[stage].wait(phase);
      products.multiply_scores(query, stage);
      s.v_full[v_stage].wait(v_phase);
      products.multiply_output(v_stage);
      warpgroup_wait<1>();
      products.take_scores();
      finish_scores();
      products.finish_output(used);
      release(s.v_empty[used]);
      products.take_weights(rescale);
    }
    s.v_full[v_stage].wait(v_phase);
    products.multiply_output(v_stage);
    products.finish_output(v_stage);
    release(s.v_empty[v_stage]);
    if constexpr (!kExact)
      if (wants_again<Shape>(state, p.scale_log2) && threadIdx.x % 32 == 0) make_again(p, *item, s);
    store<Shape>(p, *item, state, output, row0);
  }
}

template <class Shape, bool kExact>
__device__ __forceinline__ void consume_items(const ForwardParams& p, ForwardStorage<Shape>& s) {
  if constexpr (Shape::kResident > 1) {
    consume_short<Shape, kExact>(p, s);
  } else {
    consume<Shape, kExact>(p, s);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kResident)
    forward_kernel(const __grid_constant__ ForwardParams p, const __grid_constant__ MapSet maps) {
  extern __shared__ __align__(1024) char memory[];
  auto& s = *reinterpret_cast<ForwardStorage<Shape>*>(memory);
  if (threadIdx.x == 0) {
    s.again = kNone;
    init_barriers(s);
  }
  __syncthreads();
  if (p.partial) asm volatile("griddepcontrol.launch_dependents;");  // the launch that merges gets ready meanwhile
  constexpr int kFirst = 128 * Shape::kConsumers;
  if (threadIdx.x >= kFirst) {
    cutlass::arch::warpgroup_reg_dealloc<Shape::kProducerRegisters>();
    if (threadIdx.x >= kFirst + 32) return;
    produce<Shape, false>(p, maps, s);
    meet<Shape>();
    if (s.again == kNone) return;
    if (threadIdx.x == kFirst) init_barriers(s);  // nobody waits at any, and nothing is under way
    meet<Shape>();
    produce<Shape, true>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<Shape::kConsumerRegisters>();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // for what the partial launch before wrote
    consume_items<Shape, false>(p, s);
    meet<Shape>();
    if (s.again == kNone) return;
    meet<Shape>();
    consume_items<Shape, true>(p, s);
  }
}

}  // namespace longstride::engine::cuda::sm90
