// One gradient a launch, in a fixed order of additions: dQ over the forward plan, dK or dV over the transposed one. A
// tile of rows stays, its runs of columns stream by, the result is kept in registers. Eight products where backward.cuh
// needs five, so this is the deterministic mode, and the way for dims whose dK and dV do not fit in registers together.
// Launched by gradient_launch.cuh, once for partial and once for base levels.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/alibi.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/exponential.cuh"
#include "engine/cuda/sm90/gradient_notes.cuh"
#include "engine/cuda/sm90/gradient_store.cuh"
#include "engine/cuda/sm90/gradient_values.h"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/locate.cuh"
#include "engine/cuda/sm90/pipeline.cuh"

namespace longstride::engine::cuda::sm90 {

// What a launch makes. kPlan: whose tiles it walks; kOfScores: whether the operand of the last product is dS, or P
// (dV).
struct QueryGradient {
  static constexpr Direction kPlan = Direction::kForward;
  static constexpr bool kOfScores = true;
};
struct KeyGradient {
  static constexpr Direction kPlan = Direction::kTransposed;
  static constexpr bool kOfScores = true;
};
struct ValueGradient {
  static constexpr Direction kPlan = Direction::kTransposed;
  static constexpr bool kOfScores = false;
};

template <class Element_, int kDim_, class Calls_, class Role_>
struct GradientShape {
  using Element = Element_;
  using Calls = Calls_;
  using Role = Role_;
  static constexpr bool kRowsAreQueries = Role::kPlan == Direction::kForward;
  static constexpr int kDim = kDim_;  // a multiple of 64
  static constexpr int kBox = 64;
  static constexpr int kWidth = kDim;
  static constexpr int kConsumers = 2;
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kColumns = 64;
  static constexpr int kStages = kDim > 128 ? 1 : 2;  // 256: two row tiles are 128 KiB, a stage is 64
  static constexpr int kThreads = 128 * (kConsumers + 1);

  using Atom = cute::GMMA::Layout_K_SW128_Atom<Element>;
  using LayoutRows = decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kRows>, cute::Int<kWidth>>{}));
  using LayoutColumns =
      decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kColumns>, cute::Int<kWidth>, cute::Int<kStages>>{}));
  using LayoutTurned = decltype(cute::composition(
      LayoutColumns{}, cute::make_layout(cute::Shape<cute::Int<kWidth>, cute::Int<kColumns>, cute::Int<kStages>>{},
                                         cute::Stride<cute::Int<kColumns>, cute::_1, cute::Int<kColumns * kWidth>>{})));
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kColumns>, cute::_16>>()));
  using MmaResult = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kDim>, cute::_16>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));
  static constexpr int kRowsBytes = kRows * kWidth * sizeof(Element);
  static constexpr int kColumnsBytes = kColumns * kWidth * sizeof(Element);
};

template <class Shape>
struct GradientStorage {
  using Element = typename Shape::Element;
  alignas(1024) Element row[Shape::kRows * Shape::kWidth];
  alignas(1024) Element row_pair[Shape::kRows * Shape::kWidth];
  alignas(1024) Element column[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(1024) Element column_pair[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(16) float2 values[Shape::kStages][Shape::kColumns];  // columns that are queries: lse, delta
  // barrier       arrives                                          waits      count
  // row_full      producer lane + TMA bytes                        consumers  1
  // row_empty     each consumer warp                               producer   4 * kConsumers
  // full[s]       producer warp (values) + lane 0 + TMA bytes      consumers  32 + 1
  // empty[s]      each consumer warp                               producer   4 * kConsumers
  // raw           producer lane + TMA bytes of a block with a      producer   1
  //               tail, which then arrives at full[s]
  cutlass::arch::ClusterTransactionBarrier row_full, full[Shape::kStages], raw;
  cutlass::arch::ClusterBarrier row_empty, empty[Shape::kStages];
  GradientBlockNote block[Shape::kStages];
  GradientItemNote item[2];
};

template <class Shape>
__device__ void produce_gradient(const GradientParams& p, const GradientMapSet& maps, GradientStorage<Shape>& s) {
  constexpr bool kQueries = Shape::kRowsAreQueries;
  const int lane = threadIdx.x % 32;
  const int len_columns = kQueries ? p.len_k : p.len_q;
  int stage = 0, phase = 1, row_phase = 1, note = 0, raw_phase = 0;
  int64_t index = blockIdx.x;
  while (index < p.items) {
    const TilePlace place = locate_by_warp(p.lanes, p.lane_count, kQueries ? p.group : 1, index, p.plan);
    const Tile& tile = p.plan.tiles[place.tile];
    const GradientMaps& m = maps.of_stride[place.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + place.shift - (kQueries ? p.query_start : 0);
    const int32_t row_head = kQueries ? place.kv_head * p.group + place.member : place.kv_head;
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Shape::Role::kPlan, Shape::kColumns);
    bool more = !walk.done();
    if (lane == 0) index = atomicAdd(p.ticket, 1ull) + gridDim.x;
    index = __shfl_sync(~0u, index, 0);
    s.row_empty.wait(row_phase);
    row_phase ^= 1;
    if (lane == 0) {
      write_note(place, tile, row_head, row0, more, s.item[note]);
      s.row_full.arrive_and_expect_tx(2 * Shape::kRowsBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.row, p.len_rows, place.stride, row0, row_head, place.batch,
                                                          s.row_full, s.row);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.row_pair, p.len_rows, place.stride, row0, row_head,
                                                          place.batch, s.row_full, s.row_pair);
    }
    note ^= 1;
    for (int member = 0; more;) {
      const ColumnBlock now = walk.at(tile.rows, place.stride, place.shift);
      const int head = kQueries ? row_head : place.kv_head * p.group + member;
      walk.advance();
      if (walk.done()) {
        if (kQueries || ++member == p.group) {
          more = false;
        } else {
          walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, Shape::Role::kPlan, Shape::kColumns);
        }
      }
      s.empty[stage].wait(phase);
      const int32_t position = now.column0 - (kQueries ? 0 : p.query_start);
      if constexpr (!kQueries) {
        const float2* rows = p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q;
        for (int i = lane; i < Shape::kColumns; i += 32)
          s.values[stage][i] =
              i < now.columns ? rows[position + int64_t(i) * place.stride] : make_float2(INFINITY, 0.f);
      }
      const bool tail = now.columns < Shape::kColumns;
      auto& bar = tail ? s.raw : s.full[stage];
      const int at_stage = stage * Shape::kColumns * Shape::kWidth;
      const int column_head = kQueries ? place.kv_head : head;
      if (lane == 0) {
        write_note(now, head, !more, s.block[stage]);
        bar.arrive_and_expect_tx(2 * Shape::kColumnsBytes);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.column, len_columns, place.stride, position,
                                                               column_head, place.batch, bar, s.column + at_stage);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.column_pair, len_columns, place.stride, position,
                                                               column_head, place.batch, bar, s.column_pair + at_stage);
      }
      if (tail) {
        s.raw.wait(raw_phase);
        raw_phase ^= 1;
        zero_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(s.column + at_stage, now.columns);
        zero_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(s.column_pair + at_stage, now.columns);
        cutlass::arch::fence_view_async_shared();
        __syncwarp();
        if (lane == 0) s.full[stage].arrive();
      }
      s.full[stage].arrive();
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
  }
  s.row_empty.wait(row_phase);
  if (lane == 0) {
    s.item[note].stop = 1;
    s.row_full.arrive();
  }
}

// The columns [begin, end) that are pairs with row `row`.
__device__ __forceinline__ int2 seen_columns(const GradientBlockNote& b, int row) {
  if (row < (b.rows & 0xffff) || row >= b.rows >> 16) return make_int2(0, 0);
  return make_int2(row + b.diagonals.begin(), min(b.columns, row + b.diagonals.end()));
}

template <class Shape, bool kExact>
__device__ __forceinline__ void consume_gradient(const GradientParams& p, GradientStorage<Shape>& s) {
  using namespace cute;
  using Element = typename Shape::Element;
  constexpr bool kQueries = Shape::kRowsAreQueries;
  const int group = threadIdx.x / 128 - 1;
  const int thread = threadIdx.x % 128;
  const int row0 = 64 * group + 16 * (thread / 32) + (thread % 32) / 4;
  const int column0 = 2 * (threadIdx.x % 4);

  Tensor sRow = make_tensor(make_smem_ptr(s.row), typename Shape::LayoutRows{});
  Tensor sRowPair = make_tensor(make_smem_ptr(s.row_pair), typename Shape::LayoutRows{});
  Tensor sColumn = make_tensor(make_smem_ptr(s.column), typename Shape::LayoutColumns{});
  Tensor sColumnPair = make_tensor(make_smem_ptr(s.column_pair), typename Shape::LayoutColumns{});
  Tensor sTurned =
      make_tensor(make_smem_ptr(Shape::Role::kOfScores ? s.column : s.column_pair), typename Shape::LayoutTurned{});
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaResult mma_result;
  auto thr_scores = mma_scores.get_thread_slice(thread);
  auto thr_result = mma_result.get_thread_slice(thread);
  auto my_rows = cute::Tile<Int<64>, Int<Shape::kWidth>>{};
  Tensor rRow = thr_scores.partition_fragment_A(local_tile(sRow, my_rows, make_coord(group, 0)));
  Tensor rRowPair = thr_scores.partition_fragment_A(local_tile(sRowPair, my_rows, make_coord(group, 0)));
  Tensor rColumn = thr_scores.partition_fragment_B(sColumn);
  Tensor rColumnPair = thr_scores.partition_fragment_B(sColumnPair);
  Tensor rTurned = thr_result.partition_fragment_B(sTurned);
  Tensor scores = partition_fragment_C(mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor dp = partition_fragment_C(mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor result = partition_fragment_C(mma_result, cute::Shape<_64, Int<Shape::kDim>>{});
  Tensor operand =
      make_tensor<Element>(thr_result
                               .partition_fragment_A(make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)),
                                                                 make_layout(cute::Shape<_64, Int<Shape::kColumns>>{})))
                               .layout());
  auto product = [&](auto& a, auto& bt, auto& c, int at) {
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma_scores.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int k = 0; k < Shape::kDim / 16; ++k) {
      cute::gemm(mma_scores, a(_, _, k), bt(_, _, k, at), c);
      mma_scores.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  };

  int stage = 0, phase = 0, row_phase = 0, note = 0;
  for (;;) {
    s.row_full.wait(row_phase);
    row_phase ^= 1;
    const GradientItemNote& item = s.item[note];
    note ^= 1;
    if (item.stop) return;
    begin_gradient<Shape>(p, p.result, item, result, row0, column0);
    float2 mine[2];  // rows that are queries: lse, delta
    if constexpr (kQueries) {
      const float2* rows = p.rows + (int64_t(item.batch) * p.heads + item.head) * p.len_q;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = row0 + 8 * r;
        mine[r] = row < item.rows ? rows[item.row0 + int64_t(row) * item.stride] : make_float2(INFINITY, 0.f);
      }
    }
    for (bool last = !item.blocks; !last;) {
      s.full[stage].wait(phase);
      const GradientBlockNote b = s.block[stage];
      last = b.last;
      product(rRow, rColumn, scores, stage);
      if constexpr (Shape::Role::kOfScores) {
        product(rRowPair, rColumnPair, dp, stage);
        warpgroup_wait<1>();
      } else {
        warpgroup_wait<0>();
      }
      warpgroup_fence_operand(scores);
      auto value = [&](int i) {  // of accumulator element i
        if constexpr (kQueries) return mine[i / 2 % 2];
        return s.values[stage][i / 4 * 8 + column0 + i % 2];
      };
      if constexpr (Shape::Calls::kAlibi) {
        if (p.adjusts_scores())
          adjust_scores<Shape::kColumns>(p, b.head, (kQueries ? p.query_start : 0) + item.row0 + row0 * item.stride,
                                         b.column0 + column0 * item.stride, item.stride, scores);
      }
      exponentiate<kExact>(
          scores, [&](int i) { return value(i).x; }, p.scale, p.scale_log2, b.weight_log2);
      if (b.masked) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int2 seen = seen_columns(b, row0 + 8 * r);
#pragma unroll
          for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int i = 8 * n + column0 + c;
              float& x = scores[4 * n + 2 * r + c];
              x = i >= seen.x && i < seen.y ? x : 0.f;
            }
        }
      }
      [[maybe_unused]] Kept<Shape::kColumns> kept;
      if constexpr (Shape::Calls::kDrops) {
        const int row = (kQueries ? p.query_start : 0) + item.row0 + row0 * item.stride;
        kept = Kept<Shape::kColumns>::all();
        if (p.dropout.seed)
          kept = draw<Shape::kColumns>(p.dropout, kQueries, row, b.column0 + column0 * item.stride, item.stride,
                                       p.dropout.stream(item.batch, b.head));
      }
      auto dropped = [&](float x, int i) {
        if constexpr (Shape::Calls::kDrops) return kept.at(i) ? x : 0.f;
        return x;
      };
      if constexpr (Shape::Role::kOfScores) {
        warpgroup_wait<0>();
        warpgroup_fence_operand(dp);
#pragma unroll
        for (int i = 0; i < size(scores); ++i) {  // 0, not 0 * NaN, for pairs that are none
          const float x = scores[i] * fmaf(dropped(dp[i], i), p.gain, -value(i).y);
          operand[i] = static_cast<Element>(scores[i] == 0.f ? 0.f : x);
        }
      } else {
#pragma unroll
        for (int i = 0; i < size(scores); ++i) operand[i] = static_cast<Element>(dropped(scores[i], i));
      }
      warpgroup_fence_operand(result);
      warpgroup_fence_operand(operand);
      warpgroup_arrive();
      mma_result.accumulate_ = GMMA::ScaleOut::One;
#pragma unroll
      for (int k = 0; k < Shape::kColumns / 16; ++k)
        cute::gemm(mma_result, operand(_, _, k), rTurned(_, _, k, stage), result);
      warpgroup_commit_batch();
      warpgroup_wait<0>();
      warpgroup_fence_operand(result);
      release(s.empty[stage]);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
    release(s.row_empty);  // the note stays until the next item but one
    store_gradient<Shape>(p, p.result, item, result, row0, column0);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    gradient_kernel(const __grid_constant__ GradientParams p, const __grid_constant__ GradientMapSet maps) {
  extern __shared__ __align__(1024) char memory[];
  auto& s = *reinterpret_cast<GradientStorage<Shape>*>(memory);
  if (threadIdx.x == 0) {
    s.row_full.init(1);
    s.raw.init(1);
    s.row_empty.init(4 * Shape::kConsumers);
    for (int i = 0; i < Shape::kStages; ++i) {
      s.full[i].init(32 + 1);
      s.empty[i].init(4 * Shape::kConsumers);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    cutlass::arch::warpgroup_reg_dealloc<40>();
    if (threadIdx.x < 32) produce_gradient<Shape>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<232>();
    if (*p.exact) {
      consume_gradient<Shape, true>(p, s);
    } else {
      consume_gradient<Shape, false>(p, s);
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
