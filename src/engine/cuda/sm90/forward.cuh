// The forward kernel for Hopper: one tile of queries against its runs of keys, products by WGMMA, operands by TMA.
// Launched by forward_launch.cuh, once for the partial levels of a plan and once for its base levels. Assumes 16-byte
// aligned tensors whose strides TMA takes (tensor_maps.h says which) and lengths below 2^31.
//
// Read it from top to bottom: shape, shared memory, barriers, producer (which walks the plan), consumer.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/alibi.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/forward_values.h"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/locate.cuh"
#include "engine/cuda/sm90/pipeline.cuh"
#include "engine/cuda/sm90/softmax.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Element_, int kDim_, class Calls_>
struct ForwardShape {
  using Element = Element_;
  using Calls = Calls_;
  static constexpr int kDim = kDim_;                              // columns of V that are multiplied
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;          // inner extent of a TMA box
  static constexpr int kWidth = (kDim + kBox - 1) / kBox * kBox;  // columns held in shared memory
  static constexpr int kConsumers = 2;                            // warpgroups, 64 queries each
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kColumns = kDim > 128 ? 64 : 128;  // 256: 128 accumulators leave room for 64 keys
  // K and V blocks in flight and Q tiles at hand, as many as fit in 227 KiB: at 128, a third block instead of a second
  // Q took LongNet's 128k from 5.51 to 5.07 ms.
  static constexpr int kQueries = kDim > 96 ? 1 : 2;
  static constexpr int kStages = kWidth <= 64 ? 4 : kWidth <= 96 ? 3 : kWidth <= 128 && kQueries == 1 ? 3 : 2;
  static constexpr int kNotes = 4;  // an item's note is read until its tile is stored: later than its Q is released
  static constexpr int kThreads = 128 * (kConsumers + 1);

  using Atom =
      std::conditional_t<kBox == 32, cute::GMMA::Layout_K_SW64_Atom<Element>, cute::GMMA::Layout_K_SW128_Atom<Element>>;
  using LayoutQ =
      decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kRows>, cute::Int<kWidth>, cute::Int<kQueries>>{}));
  using LayoutK =
      decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kColumns>, cute::Int<kWidth>, cute::Int<kStages>>{}));
  // V as the second product wants it: [dim, keys] over the same bytes.
  using LayoutVt = decltype(cute::composition(
      LayoutK{}, cute::make_layout(cute::Shape<cute::Int<kWidth>, cute::Int<kColumns>, cute::Int<kStages>>{},
                                   cute::Stride<cute::Int<kColumns>, cute::_1, cute::Int<kColumns * kWidth>>{})));
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kColumns>, cute::_16>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kDim>, cute::_16>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  static constexpr int kRowsBytes = kRows * kWidth * sizeof(Element);
  static constexpr int kBlockBytes = kColumns * kWidth * sizeof(Element);
};

template <class Shape>
struct ForwardStorage {
  alignas(1024) cute::array_aligned<typename Shape::Element, cute::cosize_v<typename Shape::LayoutQ>, 1024> q;
  alignas(1024) cute::array_aligned<typename Shape::Element, cute::cosize_v<typename Shape::LayoutK>, 1024> k;
  alignas(1024) cute::array_aligned<typename Shape::Element, cute::cosize_v<typename Shape::LayoutK>, 1024> v;
  // barrier        arrives                                        waits      count
  // q_full[i]      producer lane + TMA bytes of Q                 consumers  1
  // q_empty[i]     each consumer warp                             producer   4 * kConsumers
  // k_full[s]      producer lane + TMA bytes of K                 consumers  1
  // k_empty[s]     each consumer warp                             producer   4 * kConsumers
  // v_full, v_empty: likewise for V, but that a block with a tail comes through
  // raw            producer lane + TMA bytes of V                 producer   1
  cutlass::arch::ClusterTransactionBarrier q_full[Shape::kQueries], k_full[Shape::kStages], v_full[Shape::kStages], raw;
  cutlass::arch::ClusterBarrier q_empty[Shape::kQueries], k_empty[Shape::kStages], v_empty[Shape::kStages];
  BlockNote block[Shape::kStages];
  ItemNote item[Shape::kNotes];
  unsigned long long again;  // the first of the items to be made again, or kNone
};
constexpr unsigned long long kNone = ~0ull;

template <class Shape>
__device__ __forceinline__ void init_barriers(ForwardStorage<Shape>& s) {
  s.raw.init(1);
  for (int i = 0; i < Shape::kQueries; ++i) {
    s.q_full[i].init(1);
    s.q_empty[i].init(4 * Shape::kConsumers);
  }
  for (int i = 0; i < Shape::kStages; ++i) {
    s.k_full[i].init(1);
    s.v_full[i].init(1);
    s.k_empty[i].init(4 * Shape::kConsumers);
    s.v_empty[i].init(4 * Shape::kConsumers);
  }
  cutlass::arch::fence_barrier_init();
}

// Puts an item into the block's list of those to be made again. One lane of any of its warps calls it.
template <class Shape>
__device__ __forceinline__ void make_again(const ForwardParams& p, ItemNote& item, ForwardStorage<Shape>& s) {
  if (atomicExch(&item.again, 1) == 0) p.again[item.index] = static_cast<int64_t>(atomicExch(&s.again, item.index));
}

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

// One warp; lane 0 speaks to the copy engine. kAgain: the items of the block's list instead of those that it draws.
template <class Shape, bool kAgain>
__device__ void produce(const ForwardParams& p, const MapSet& maps, ForwardStorage<Shape>& s) {
  const bool first_lane = threadIdx.x % 32 == 0;
  int stage = 0, phase = 1;  // an empty buffer counts as consumed
  int query = 0, q_phase = 1, note = 0, raw_phase = 0;
  int64_t index = kAgain ? static_cast<int64_t>(s.again) : blockIdx.x;
  while (kAgain ? index >= 0 : index < p.items) {
    const int64_t own = index;
    // Found before the wait, so that the chain of loads is over when the consumers want the next item.
    const TilePlace place = locate_by_warp(p.lanes, p.lane_count, p.group, index, p.plan);
    const Tile& tile = p.plan.tiles[place.tile];
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns);
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
    fetch_partials<Shape>(p, tile, place, head);
    s.q_empty[query].wait(q_phase);
    if (first_lane) {
      ItemNote& item = s.item[note];
      item.index = own;
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
      s.q_full[query].arrive_and_expect_tx(Shape::kRowsBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.q, p.len_q, place.stride, row0, head, place.batch,
                                                          s.q_full[query],
                                                          s.q.data() + query * Shape::kRows * Shape::kWidth);
    }
    note = (note + 1) % Shape::kNotes;
    if (++query == Shape::kQueries) query = 0, q_phase ^= 1;
    // A tile that sees nothing gets one block of no columns, so that the consumers know one way only.
    bool more = true;
    while (more) {
      ColumnBlock now{0, 0, {}, 0, 1, true};
      if (!walk.done()) {
        now = walk.at(rows, place.stride, place.shift);
        walk.advance();
      }
      more = !walk.done();
      const bool tail = now.columns < Shape::kColumns;
      auto* const to_v = s.v.data() + stage * Shape::kColumns * Shape::kWidth;
      s.k_empty[stage].wait(phase);
      if (first_lane) {
        BlockNote& b = s.block[stage];
        b.column0 = now.column0;
        b.columns = now.columns;
        b.diagonals = now.diagonals;
        b.rows = now.rows;
        b.weight_log2 = now.weight == 1 ? 0.f : log2f(float(now.weight));
        b.masked = now.masked;
        b.last = !more;
        s.k_full[stage].arrive_and_expect_tx(Shape::kBlockBytes);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.k, p.len_k, place.stride, now.column0, place.kv_head,
                                                               place.batch, s.k_full[stage],
                                                               s.k.data() + stage * Shape::kColumns * Shape::kWidth);
      }
      s.v_empty[stage].wait(phase);
      auto& v_bar = tail ? s.raw : s.v_full[stage];
      if (first_lane) {
        v_bar.arrive_and_expect_tx(Shape::kBlockBytes);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.v, p.len_k, place.stride, now.column0, place.kv_head,
                                                               place.batch, v_bar, to_v);
      }
      if (tail) {
        s.raw.wait(raw_phase);
        raw_phase ^= 1;
        zero_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(to_v, now.columns);
        cutlass::arch::fence_view_async_shared();
        __syncwarp();
        if (first_lane) s.v_full[stage].arrive();
      }
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
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
  using Element = typename Shape::Element;
  int of_block = threadIdx.x;
  // Opaque to the second pass, or all that both make of it stays in registers throughout the first.
  if constexpr (kExact) asm volatile("" : "+r"(of_block));
  const int group = of_block / 128;  // consumer warpgroup
  const int thread = of_block % 128;
  const int row0 = 64 * group + 16 * (thread / 32) + (thread % 32) / 4;

  Tensor sQ = make_tensor(make_smem_ptr(s.q.data()), typename Shape::LayoutQ{});
  Tensor sK = make_tensor(make_smem_ptr(s.k.data()), typename Shape::LayoutK{});
  Tensor sVt = make_tensor(make_smem_ptr(s.v.data()), typename Shape::LayoutVt{});
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaOutput mma_output;
  auto thr_scores = mma_scores.get_thread_slice(thread);
  auto thr_output = mma_output.get_thread_slice(thread);
  Tensor rQ = thr_scores.partition_fragment_A(
      local_tile(sQ, cute::Tile<Int<64>, Int<Shape::kWidth>>{}, make_coord(group, 0, _)));
  Tensor rK = thr_scores.partition_fragment_B(sK);
  Tensor sVd = local_tile(sVt, cute::Tile<Int<Shape::kDim>, Int<Shape::kColumns>>{}, make_coord(0, 0, _));
  Tensor rV = thr_output.partition_fragment_B(sVd);
  Tensor scores = partition_fragment_C(mma_scores, cute::Shape<cute::_64, cute::Int<Shape::kColumns>>{});
  Tensor output = partition_fragment_C(mma_output, cute::Shape<cute::_64, cute::Int<Shape::kDim>>{});
  Tensor weights = make_tensor<Element>(
      thr_output
          .partition_fragment_A(make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)),
                                            make_layout(cute::Shape<cute::_64, cute::Int<Shape::kColumns>>{})))
          .layout());

  auto multiply_scores = [&](int query, int stage) {
    warpgroup_fence_operand(scores);
    warpgroup_arrive();
    mma_scores.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int k = 0; k < (Shape::kDim + 15) / 16; ++k) {
      cute::gemm(mma_scores, rQ(_, _, k, query), rK(_, _, k, stage), scores);
      mma_scores.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  };
  auto multiply_output = [&](int stage) {
    warpgroup_fence_operand(output);
    warpgroup_fence_operand(weights);
    warpgroup_arrive();
    mma_output.accumulate_ = GMMA::ScaleOut::One;
#pragma unroll
    for (int k = 0; k < Shape::kColumns / 16; ++k) cute::gemm(mma_output, weights(_, _, k), rV(_, _, k, stage), output);
    warpgroup_commit_batch();
  };
  auto narrow = [&] {
#pragma unroll
    for (int i = 0; i < size(scores); ++i) weights[i] = static_cast<Element>(scores[i]);
  };

  // While a block is multiplied with V, the scores of the next are made and their softmax step is taken.
  int stage = 0, phase = 0, query = 0, q_phase = 0, note = 0;
  int v_stage = 0, v_phase = 0;
  bool last = false;
  float rescale[2];
  RowState state;
  ItemNote* item = &s.item[0];
  auto finish_scores = [&] {  // scores are there: release K (and Q), mask, step the softmax
    const BlockNote b = s.block[stage];
    last = b.last;
    release(s.k_empty[stage]);
    if (last) {
      release(s.q_empty[query]);
      if (++query == Shape::kQueries) query = 0, q_phase ^= 1;
    }
    if (p.negate)
      for (int i = 0; i < size(scores); ++i) scores[i] = -scores[i];
    if constexpr (Shape::Calls::kAlibi) {
      if (p.adjusts_scores())
        adjust_scores<Shape::kColumns>(p, item->head, p.query_start + item->row0 + row0 * item->stride,
                                       b.column0 + 2 * (thread % 4) * item->stride, item->stride, scores);
    }
    if (b.masked) mask<Shape>(scores, b, row0);
    softmax_step<Shape, kExact>(scores, state, rescale, p.scale_log2, b.weight_log2);
    if constexpr (Shape::Calls::kDrops) {
      if (!Shape::Calls::kAlibi || p.dropout.seed) {
        const auto kept = draw<Shape::kColumns>(p.dropout, true, p.query_start + item->row0 + row0 * item->stride,
                                                b.column0 + 2 * (thread % 4) * item->stride, item->stride,
                                                p.dropout.stream(item->batch, item->head));
#pragma unroll
        for (int i = 0; i < size(scores); ++i) scores[i] = kept.at(i) ? scores[i] : 0.f;
      }
    }
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
    state = begin_rows(p, *item, row0);
    s.k_full[stage].wait(phase);
    multiply_scores(query, stage);
    begin_output<Shape>(p, *item, state.max, output, row0);
    warpgroup_wait<0>();
    warpgroup_fence_operand(scores);
    finish_scores();
    narrow();
    scale_rows(output, rescale);
    while (!last) {
      const int used = v_stage;
      s.k_full[stage].wait(phase);
      multiply_scores(query, stage);
      s.v_full[v_stage].wait(v_phase);
      multiply_output(v_stage);
      warpgroup_wait<1>();
      warpgroup_fence_operand(scores);
      finish_scores();
      warpgroup_wait<0>();
      warpgroup_fence_operand(output);
      release(s.v_empty[used]);
      narrow();
      scale_rows(output, rescale);
    }
    s.v_full[v_stage].wait(v_phase);
    multiply_output(v_stage);
    warpgroup_wait<0>();
    warpgroup_fence_operand(output);
    release(s.v_empty[v_stage]);
    if constexpr (!kExact)
      if (is_large(state, p.scale_log2) && threadIdx.x % 32 == 0) make_again(p, *item, s);
    store<Shape>(p, *item, state, output, row0);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
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
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x >= kFirst + 32) return;
    produce<Shape, false>(p, maps, s);
    meet<Shape>();
    if (s.again == kNone) return;
    if (threadIdx.x == kFirst) init_barriers(s);  // nobody waits at any, and nothing is under way
    meet<Shape>();
    produce<Shape, true>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    asm volatile("griddepcontrol.wait;" ::: "memory");  // for what the partial launch before wrote
    consume<Shape, false>(p, s);
    meet<Shape>();
    if (s.again == kNone) return;
    meet<Shape>();
    consume<Shape, true>(p, s);
  }
}

}  // namespace longstride::engine::cuda::sm90
