// The forward kernel for Hopper: one tile of queries against its runs of keys, products by WGMMA, operands by TMA.
// Launched by forward_launch.cuh, once for the partial levels of a plan and once for its base levels. Assumes 16-byte
// aligned tensors whose strides TMA takes (tensor_maps.h says which) and lengths below 2^31.
//
// Read it from top to bottom: shape, shared memory, barriers, producer (which walks the plan), consumer.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/forward_values.h"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/pipeline.cuh"
#include "engine/cuda/sm90/softmax.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Element_, int kDim_, class Dropout_>
struct ForwardShape {
  using Element = Element_;
  using Dropout = Dropout_;
  static constexpr int kDim = kDim_;                              // columns of V that are multiplied
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;          // inner extent of a TMA box
  static constexpr int kWidth = (kDim + kBox - 1) / kBox * kBox;  // columns held in shared memory
  static constexpr int kConsumers = 2;                            // warpgroups, 64 queries each
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kColumns = kDim > 128 ? 64 : 128;  // 256: 128 accumulators leave room for 64 keys
  static constexpr int kStages = 2;
  static constexpr int kThreads = 128 * (kConsumers + 1);

  using Atom =
      std::conditional_t<kBox == 32, cute::GMMA::Layout_K_SW64_Atom<Element>, cute::GMMA::Layout_K_SW128_Atom<Element>>;
  using LayoutQ = decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kRows>, cute::Int<kWidth>>{}));
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
  // barrier        arrives                              waits      count
  // q_full         producer + TMA bytes of Q            consumers  1
  // q_empty        each consumer warp                   producer   4 * kConsumers
  // k_full[s]      producer + TMA bytes of K            consumers  1
  // k_empty[s]     each consumer warp                   producer   4 * kConsumers
  // v_full, v_empty: likewise for V
  cutlass::arch::ClusterTransactionBarrier q_full, k_full[Shape::kStages], v_full[Shape::kStages];
  cutlass::arch::ClusterBarrier q_empty, k_empty[Shape::kStages], v_empty[Shape::kStages];
  BlockNote block[Shape::kStages];
  ItemNote item[2];
};

template <class Shape>
__device__ void produce(const ForwardParams& p, const MapSet& maps, ForwardStorage<Shape>& s) {
  int stage = 0, phase = 1;  // an empty buffer counts as consumed
  int q_phase = 1, note = 0;
  int64_t index = blockIdx.x;
  while (index < p.items) {
    // Found before the wait, so that the chain of loads is over when the consumers want the next item.
    const Place at = locate(p.lanes, p.lane_count, p.group, index, p.plan);
    const Tile& tile = p.plan.tiles[at.tile];
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kForward, Shape::kColumns);
    index = atomicAdd(p.ticket, 1ull) + gridDim.x;
    const TensorMaps& m = maps.of_stride[at.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + at.shift - p.query_start;
    s.q_empty.wait(q_phase);
    q_phase ^= 1;
    ItemNote& item = s.item[note];
    note ^= 1;
    item.row0 = row0;
    item.stride = at.stride;
    item.slot = at.slot;
    item.repeat = at.repeat;
    item.rows = tile.rows;
    item.batch = at.batch;
    item.head = at.kv_head * p.group + at.member;
    item.phantom_begin = tile.phantom_begin;
    item.phantom_count = tile.phantom_count;
    item.merge_begin = tile.merge_begin;
    item.merge_count = tile.merge_count;
    item.blocks = !walk.done();
    item.stop = 0;
    s.q_full.arrive_and_expect_tx(Shape::kRowsBytes);
    load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.q, p.len_q, at.stride, row0, item.head, at.batch, s.q_full,
                                                        s.q.data());
    while (!walk.done()) {
      const Block now = walk.at(item.rows, at.stride, at.shift);
      walk.advance();
      s.k_empty[stage].wait(phase);
      BlockNote& b = s.block[stage];
      b.column0 = now.column0;
      b.columns = now.columns;
      b.diagonal = now.diagonal;
      b.rows = now.rows;
      b.weight_log2 = now.weight == 1 ? 0.f : log2f(float(now.weight));
      b.masked = now.masked;
      b.last = walk.done();
      s.k_full[stage].arrive_and_expect_tx(Shape::kBlockBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.k, p.len_k, at.stride, now.column0, at.kv_head, at.batch,
                                                             s.k_full[stage],
                                                             s.k.data() + stage * Shape::kColumns * Shape::kWidth);
      s.v_empty[stage].wait(phase);
      s.v_full[stage].arrive_and_expect_tx(Shape::kBlockBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.v, p.len_k, at.stride, now.column0, at.kv_head, at.batch,
                                                             s.v_full[stage],
                                                             s.v.data() + stage * Shape::kColumns * Shape::kWidth);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
  }
  s.q_empty.wait(q_phase);
  s.item[note].stop = 1;
  s.q_full.arrive();
}

// Zeroes the rows of V that no pair of the block uses, so that what lies there cannot spread through 0 * NaN.
template <class Shape>
__device__ __forceinline__ void zero_tail(typename Shape::Element* v, int columns) {
  constexpr int kPieces = Shape::kBox * sizeof(typename Shape::Element) / 16;  // of 16 bytes in a row of a box
  const int thread = threadIdx.x % 128;
  for (int box = 0; box < Shape::kWidth / Shape::kBox; ++box) {
    auto* rows = reinterpret_cast<uint4*>(v + box * Shape::kColumns * Shape::kBox);
    // Swizzling permutes the pieces inside a row only, so a whole row is a whole row.
    for (int i = columns * kPieces + thread; i < Shape::kColumns * kPieces; i += 128) rows[i] = make_uint4(0, 0, 0, 0);
  }
  cutlass::arch::fence_view_async_shared();
}

template <class Shape>
__device__ void consume(const ForwardParams& p, ForwardStorage<Shape>& s) {
  using namespace cute;
  using Element = typename Shape::Element;
  const int group = threadIdx.x / 128 - 1;  // consumer warpgroup
  const int thread = threadIdx.x % 128;
  const int row0 = 64 * group + 16 * (thread / 32) + (thread % 32) / 4;

  Tensor sQ = make_tensor(make_smem_ptr(s.q.data()), typename Shape::LayoutQ{});
  Tensor sK = make_tensor(make_smem_ptr(s.k.data()), typename Shape::LayoutK{});
  Tensor sVt = make_tensor(make_smem_ptr(s.v.data()), typename Shape::LayoutVt{});
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaOutput mma_output;
  auto thr_scores = mma_scores.get_thread_slice(thread);
  auto thr_output = mma_output.get_thread_slice(thread);
  Tensor rQ =
      thr_scores.partition_fragment_A(local_tile(sQ, cute::Tile<Int<64>, Int<Shape::kWidth>>{}, make_coord(group, 0)));
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

  auto multiply_scores = [&](int stage) {
    warpgroup_fence_operand(scores);
    warpgroup_arrive();
    mma_scores.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int k = 0; k < (Shape::kDim + 15) / 16; ++k) {
      cute::gemm(mma_scores, rQ(_, _, k), rK(_, _, k, stage), scores);
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

  int stage = 0, phase = 0, q_phase = 0, note = 0;
  for (;;) {
    s.q_full.wait(q_phase);
    q_phase ^= 1;
    const ItemNote& item = s.item[note];
    note ^= 1;
    if (item.stop) return;
    RowState state{{-INFINITY, -INFINITY}, {0, 0}};
    clear(output);
    float rescale[2];
    bool last = !item.blocks;
    int v_stage = 0, v_phase = 0, v_columns = 0;
    auto next_scores = [&] {  // first product of the block at `stage`, started
      s.k_full[stage].wait(phase);
      multiply_scores(stage);
    };
    auto finish_scores = [&] {  // scores are there: release K, mask, soften
      const BlockNote b = s.block[stage];
      release(s.k_empty[stage]);
      if (p.negate)
        for (int i = 0; i < size(scores); ++i) scores[i] = -scores[i];
      if (b.masked) mask<Shape>(scores, b, row0);
      soften<Shape>(scores, state, rescale, p.scale_log2, b.weight_log2);
      if constexpr (Shape::Dropout::kDrops) {
        const auto kept = draw<Shape::kColumns>(p.dropout, true, p.query_start + item.row0 + row0 * item.stride,
                                                b.column0 + 2 * (thread % 4) * item.stride, item.stride,
                                                uint32_t(item.batch * p.heads + item.head));
#pragma unroll
        for (int i = 0; i < size(scores); ++i) scores[i] = kept.at(i) ? scores[i] : 0.f;
      }
      last = b.last;
      v_stage = stage;
      v_phase = phase;
      v_columns = b.columns;
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    };
    auto next_output = [&] {  // second product of the block before, started
      s.v_full[v_stage].wait(v_phase);
      if (v_columns < Shape::kColumns) {
        zero_tail<Shape>(s.v.data() + v_stage * Shape::kColumns * Shape::kWidth, v_columns);
        cutlass::arch::NamedBarrier::sync(128, 1 + group);
      }
      multiply_output(v_stage);
    };
    if (!last) {
      next_scores();
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      finish_scores();
      narrow();
    }
    while (!last) {
      next_scores();
      const int done = v_stage;
      next_output();
      warpgroup_wait<1>();
      warpgroup_fence_operand(scores);
      finish_scores();
      warpgroup_wait<0>();
      warpgroup_fence_operand(output);
      release(s.v_empty[done]);
      narrow();
#pragma unroll
      for (int i = 0; i < size(output); ++i) output[i] *= rescale[(i / 2) % 2];
    }
    release(s.q_empty);  // the notes of the item stay until the next one but one
    if (item.blocks) {
      next_output();
      warpgroup_wait<0>();
      warpgroup_fence_operand(output);
      release(s.v_empty[v_stage]);
    }
    store<Shape>(p, item, state, output, row0);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    forward_kernel(const __grid_constant__ ForwardParams p, const __grid_constant__ MapSet maps) {
  extern __shared__ __align__(1024) char memory[];
  auto& s = *reinterpret_cast<ForwardStorage<Shape>*>(memory);
  if (threadIdx.x == 0) {
    s.q_full.init(1);
    s.q_empty.init(4 * Shape::kConsumers);
    for (int i = 0; i < Shape::kStages; ++i) {
      s.k_full[i].init(1);
      s.v_full[i].init(1);
      s.k_empty[i].init(4 * Shape::kConsumers);
      s.v_empty[i].init(4 * Shape::kConsumers);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    cutlass::arch::warpgroup_reg_dealloc<56>();
    if (threadIdx.x == 0) produce<Shape>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<224>();
    consume<Shape>(p, s);
  }
}

}  // namespace longstride::engine::cuda::sm90
