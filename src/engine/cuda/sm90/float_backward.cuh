// The backward kernel of float32 for Hopper: one tile of 64 keys against its runs of queries, keys as rows. The two
// warpgroups of consumers have different work on every block of 64 queries, since three parts of every operand leave no
// room for two tiles of keys: the first makes P and keeps dV, the second makes dP and dS and keeps dK. P goes from one
// to the other, and dS back, through shared memory; each multiplies half of the columns of dQ, which is added to a
// float32 buffer in no fixed order. Launched by float_backward_launch.cuh.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/exponential.cuh"
#include "engine/cuda/sm90/alibi.cuh"
#include "engine/cuda/sm90/backward_queries.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/float_backward_load.cuh"
#include "engine/cuda/sm90/gradient_store.cuh"
#include "engine/cuda/sm90/part_products.cuh"
#include "engine/cuda/sm90/pipeline.cuh"

namespace longstride::engine::cuda::sm90 {

// Waits, and reads nothing of shared memory before.
__device__ __forceinline__ void await(const cutlass::arch::ClusterBarrier& barrier, int phase) {
  barrier.wait(phase);
  asm volatile("" ::: "memory");
}

// What both warpgroups are made of. kSecond: the one of dP, dS and dK.
template <class Shape, bool kSecond>
struct FloatConsumer {
  using Element = typename Shape::Element;
  using Storage = FloatBackwardStorage<Shape>;
  static constexpr int kSteps = (Shape::kDim + 15) / 16;  // of a product over dims

  const FloatBackwardParams& p;
  Storage& s;
  int thread, row0, column0;
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaKeys mma_keys;
  typename Shape::MmaQueries mma_queries;

  __device__ __forceinline__ FloatConsumer(const FloatBackwardParams& p, Storage& s)
      : p(p), s(s), thread(threadIdx.x % 128) {
    row0 = 16 * (thread / 32) + thread % 32 / 4;
    column0 = 2 * (thread % 4);
  }

  // Operands. Rows of scores: K, or V for dP; columns: Q, or dO.
  __device__ __forceinline__ auto rows() const {
    return mma_scores.get_thread_slice(thread).partition_fragment_A(
        cute::make_tensor(cute::make_smem_ptr(kSecond ? s.v : s.k), typename Shape::LayoutK{}));
  }
  __device__ __forceinline__ auto columns() const {
    return mma_scores.get_thread_slice(thread).partition_fragment_B(
        cute::make_tensor(cute::make_smem_ptr(kSecond ? s.d_out : s.q), typename Shape::LayoutQ{}));
  }
  // What the gradient of keys is made with: dO for dV, Q for dK.
  __device__ __forceinline__ auto turned() const {
    using namespace cute;
    Tensor all = make_tensor(make_smem_ptr(kSecond ? s.q : s.d_out), typename Shape::LayoutQt{});
    return mma_keys.get_thread_slice(thread).partition_fragment_B(
        local_tile(all, cute::Tile<Int<Shape::kDim>, Int<Shape::kColumns>>{}, make_coord(0, 0, _)));
  }
  __device__ __forceinline__ auto scores_of_queries() const {
    return mma_queries.get_thread_slice(thread).partition_fragment_A(
        cute::make_tensor(cute::make_smem_ptr(s.exchange), typename Shape::LayoutS{}));
  }
  __device__ __forceinline__ auto turned_keys() const {
    using namespace cute;
    Tensor all = make_tensor(make_smem_ptr(s.k), typename Shape::LayoutKt{});
    return mma_queries.get_thread_slice(thread).partition_fragment_B(
        local_tile(all, cute::Tile<Int<Shape::kSlice>, Int<Shape::kRows>>{}, make_coord(int(kSecond), 0, _)));
  }
  // Places of P or dS as the next product takes them from registers; the last index is the part.
  __device__ __forceinline__ auto weights() const {
    using namespace cute;
    const auto one = mma_keys.get_thread_slice(thread)
                         .partition_fragment_A(make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)),
                                                           make_layout(cute::Shape<_64, Int<Shape::kColumns>>{})))
                         .layout();
    using One = decltype(one);
    return make_tensor<Element>(append(One{}, make_layout(Int<Shape::kParts>{}, Int<cute::size(One{})>{})));
  }
  // A thread's part of the exchange while it holds P.
  __device__ __forceinline__ float4* floats() const { return reinterpret_cast<float4*>(s.exchange) + thread; }

  // Rows times columns of a stage.
  template <class Rows, class Columns, class Sums>
  __device__ __forceinline__ void multiply_rows(Rows& rows, Columns& columns, int stage, Sums& sums) {
    Sums small;
    work_out_here(rows);
    work_out_here(columns);
    cute::warpgroup_fence_operand(sums);
    cute::warpgroup_fence_operand(small);
    cute::warpgroup_arrive();
    multiply_scores<false, kSteps>(mma_scores, PartsOf{rows, 0}, PartsOf{columns, Shape::kParts * stage}, sums, small);
    cute::warpgroup_commit_batch();
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(sums);
    cute::warpgroup_fence_operand(small);
#pragma unroll
    for (int i = 0; i < cute::size(sums); ++i) sums[i] += small[i];
  }

  // Adds weights times a stage's dO or Q to a gradient of keys.
  template <class Weights, class Turned, class Sums>
  __device__ __forceinline__ void add_keys(Weights& weights, Turned& columns, int stage, Sums& to) {
    Sums fresh;
    work_out_here(columns);
    cute::warpgroup_fence_operand(fresh);
    cute::warpgroup_fence_operand(weights);
    cute::warpgroup_arrive();
    multiply_block<Shape::kColumns / 16>(mma_keys, PartsOf{weights, 0}, PartsOf{columns, Shape::kParts * stage}, fresh);
    cute::warpgroup_commit_batch();
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(fresh);
#pragma unroll
    for (int i = 0; i < cute::size(to); ++i) to[i] += fresh[i];
  }

  // This warpgroup's half of a block's dQ.
  template <class Scores, class Keys>
  __device__ __forceinline__ void add_queries(const GradientItemNote& item, const GradientBlockNote& b, Scores& scores,
                                              Keys& keys) {
    using namespace cute;
    Tensor dq = partition_fragment_C(mma_queries, cute::Shape<Int<Shape::kColumns>, Int<Shape::kSlice>>{});
    work_out_here(scores);
    work_out_here(keys);
    warpgroup_fence_operand(dq);
    warpgroup_arrive();
    multiply_block<Shape::kRows / 16>(mma_queries, PartsOf{scores, 0}, PartsOf{keys, 0}, dq);
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(dq);
    release(s.exchange_empty);
    add_queries_directly<Shape>(p, item, b.head, b.column0 - p.query_start, b.columns, kSecond, row0, column0, dq);
  }

  // Of dropout, which of a block's pairs stay.
  __device__ __forceinline__ auto kept(const GradientItemNote& item, const GradientBlockNote& b) const {
    auto kept = Kept<Shape::kColumns>::all();
    if (p.dropout.seed)
      kept = draw<Shape::kColumns>(p.dropout, false, item.row0 + row0 * item.stride, b.column0 + column0 * item.stride,
                                   item.stride, p.dropout.stream(item.batch, b.head));
    return kept;
  }
};

// Pairs that are none become 0.
template <class Shape, class Scores>
__device__ __forceinline__ void select_pairs(const GradientBlockNote& b, int row0, int column0, Scores& scores) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const int begin = row >= (b.rows & 0xffff) && row < b.rows >> 16 ? row + b.diagonals.begin() : Shape::kColumns;
    const int end = min(b.columns, row + b.diagonals.end());
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int i = 8 * n + column0 + c;
        float& x = scores[4 * n + 2 * r + c];
        x = i >= begin && i < end ? x : 0.f;
      }
  }
}

// P and dV.
template <class Shape>
__device__ __forceinline__ void consume_probabilities(const FloatBackwardParams& p, FloatBackwardStorage<Shape>& s) {
  using namespace cute;
  FloatConsumer<Shape, false> c(p, s);
  auto k = c.rows();
  auto q = c.columns();
  auto d_out = c.turned();
  auto ds = c.scores_of_queries();
  auto keys = c.turned_keys();
  auto weights = c.weights();
  Tensor scores = partition_fragment_C(c.mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor dv = partition_fragment_C(c.mma_keys, cute::Shape<_64, Int<Shape::kDim>>{});
  int stage = 0, phase = 0, rows_phase = 0, exchange_phase = 0;
  for (;;) {
    await(s.rows_full, rows_phase);
    const GradientItemNote& item = s.item[rows_phase];
    rows_phase ^= 1;
    if (item.stop) return;
    begin_gradient<Shape>(p, p.values, item, dv, c.row0, c.column0);
    for (bool last = !item.blocks; !last;) {
      await(s.q_full[stage], phase);
      const GradientBlockNote b = s.block[stage];
      last = b.last;
      c.multiply_rows(k, q, stage, scores);
      if (p.adjusts_scores())
        adjust_scores<Shape::kColumns>(p, b.head, item.row0 + c.row0 * item.stride, b.column0 + c.column0 * item.stride,
                                       item.stride, scores);
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 8; ++n) {
        const float4 two = *reinterpret_cast<const float4*>(&s.values[stage][8 * n + c.column0]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& x = scores[4 * n + i];
          x = exp2_unit(exponent_below<true>(x, p.scale, i % 2 ? two.z : two.x, b.weight_log2));
        }
      }
      release(s.q_empty[stage]);
      if (b.masked) select_pairs<Shape>(b, c.row0, c.column0, scores);
      await(s.exchange_empty, exchange_phase ^ 1);
      float4* const to = c.floats();
#pragma unroll
      for (int i = 0; i < size(scores) / 4; ++i)
        to[128 * i] = make_float4(scores[4 * i], scores[4 * i + 1], scores[4 * i + 2], scores[4 * i + 3]);
      release(s.p_full);
      if (p.dropout.seed) {
        const auto kept = c.kept(item, b);
#pragma unroll
        for (int i = 0; i < size(scores); ++i) scores[i] = kept.at(i) ? scores[i] : 0.f;
      }
      split_into(scores, weights);
      await(s.d_full[stage], phase);
      c.add_keys(weights, d_out, stage, dv);
      release(s.d_empty[stage]);
      await(s.ds_full, exchange_phase);
      exchange_phase ^= 1;
      c.add_queries(item, b, ds, keys);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
    release(s.rows_empty);  // the note stays until the next item but one
    store_gradient<Shape>(p, p.values, item, dv, c.row0, c.column0);
  }
}

// dP, dS and dK.
template <class Shape>
__device__ __forceinline__ void consume_scores(const FloatBackwardParams& p, FloatBackwardStorage<Shape>& s) {
  using namespace cute;
  FloatConsumer<Shape, true> c(p, s);
  auto v = c.rows();
  auto d_out = c.columns();
  auto q = c.turned();
  auto ds = c.scores_of_queries();
  auto keys = c.turned_keys();
  auto weights = c.weights();
  Tensor dp = partition_fragment_C(c.mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor dk = partition_fragment_C(c.mma_keys, cute::Shape<_64, Int<Shape::kDim>>{});
  int stage = 0, phase = 0, rows_phase = 0, exchange_phase = 0;
  for (;;) {
    await(s.rows_full, rows_phase);
    const GradientItemNote& item = s.item[rows_phase];
    rows_phase ^= 1;
    if (item.stop) return;
    begin_gradient<Shape>(p, p.result, item, dk, c.row0, c.column0);
    for (bool last = !item.blocks; !last;) {
      await(s.d_full[stage], phase);
      c.multiply_rows(v, d_out, stage, dp);
      release(s.d_empty[stage]);
      await(s.q_full[stage], phase);
      const GradientBlockNote b = s.block[stage];
      last = b.last;
      if (p.dropout.seed) {
        const auto kept = c.kept(item, b);
#pragma unroll
        for (int i = 0; i < size(dp); ++i) dp[i] = kept.at(i) ? dp[i] : 0.f;
      }
      await(s.p_full, exchange_phase);
      const float4* const from = c.floats();
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 8; ++n) {
        const float4 four = from[128 * n];
        const float4 two = *reinterpret_cast<const float4*>(&s.values[stage][8 * n + c.column0]);
        const float probabilities[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {  // 0, not 0 * NaN, for pairs that are none
          const float x = probabilities[i] * (dp[4 * n + i] * p.gain - (i % 2 ? two.w : two.y));
          dp[4 * n + i] = probabilities[i] == 0.f ? 0.f : x;
        }
      }
      cutlass::arch::NamedBarrier::sync(128, 1);  // P is read
      split_into(dp, weights);
#pragma unroll
      for (int part = 0; part < Shape::kParts; ++part)
        store_scores<Shape>(weights(_, _, _, part), s.exchange + part * Shape::kRows * Shape::kColumns, 0);
      cutlass::arch::fence_view_async_shared();
      release(s.ds_full);
      c.add_keys(weights, q, stage, dk);
      release(s.q_empty[stage]);
      await(s.ds_full, exchange_phase);
      exchange_phase ^= 1;
      c.add_queries(item, b, ds, keys);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
    release(s.rows_empty);
    store_gradient<Shape>(p, p.result, item, dk, c.row0, c.column0);
  }
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    float_backward_kernel(const __grid_constant__ FloatBackwardParams p, const __grid_constant__ GradientMapSet maps) {
  extern __shared__ __align__(1024) char memory[];
  auto& s = *reinterpret_cast<FloatBackwardStorage<Shape>*>(memory);
  if (threadIdx.x == 0) init_barriers(s);
  __syncthreads();
  if (threadIdx.x < 128) {
    cutlass::arch::warpgroup_reg_dealloc<72>();
    if (threadIdx.x < 32) produce_float_backward<Shape>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<216>();
    if (threadIdx.x < 256) {
      consume_probabilities<Shape>(p, s);
    } else {
      consume_scores<Shape>(p, s);
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
