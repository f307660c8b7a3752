// The backward kernel for Hopper: one tile of keys against its runs of queries. dK and dV stay in registers; dQ is
// added to a float32 buffer (backward_queries.cuh). Launched by backward_launch.cuh, for the partial levels of the
// transposed plan and then for the base levels. Everything is computed transposed, keys as rows, so that P and dS feed
// the next product from registers.
#pragma once

#include <cutlass/arch/reg_reconfig.h>

#include "engine/cuda/sm90/alibi.cuh"
#include "engine/cuda/sm90/backward_load.cuh"
#include "engine/cuda/sm90/backward_queries.cuh"
#include "engine/cuda/sm90/backward_store.cuh"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/exponential.cuh"
#include "engine/cuda/sm90/part_products.cuh"
#include "engine/cuda/sm90/pipeline.cuh"
#include "engine/cuda/sm90/seen_rows.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Shape, bool kExact>
__device__ __forceinline__ void consume_backward(const BackwardParams& p, const BackwardMapSet& maps,
                                                 BackwardStorage<Shape>& s) {
  using namespace cute;
  using Element = typename Shape::Element;
  constexpr int kConsumerThreads = 128 * Shape::kConsumers;
  const int group = threadIdx.x / 128 - 1;
  const int thread = threadIdx.x % 128;
  const int row0 = 64 * group + 16 * (thread / 32) + (thread % 32) / 4;
  const int column0 = 2 * (threadIdx.x % 4);

  Tensor sK = make_tensor(make_smem_ptr(s.k), typename Shape::LayoutK{});
  Tensor sV = make_tensor(make_smem_ptr(s.v), typename Shape::LayoutK{});
  Tensor sKt = make_tensor(make_smem_ptr(s.k), typename Shape::LayoutKt{});
  Tensor sQ = make_tensor(make_smem_ptr(s.q), typename Shape::LayoutQ{});
  Tensor sQt = make_tensor(make_smem_ptr(s.q), typename Shape::LayoutQt{});
  Tensor sD = make_tensor(make_smem_ptr(s.d_out), typename Shape::LayoutQ{});
  Tensor sDt = make_tensor(make_smem_ptr(s.d_out), typename Shape::LayoutQt{});
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaKeys mma_keys;
  typename Shape::MmaQueries mma_queries;
  auto thr_scores = mma_scores.get_thread_slice(thread);
  auto thr_keys = mma_keys.get_thread_slice(thread);
  auto thr_queries = mma_queries.get_thread_slice(thread);
  auto my_rows = cute::Tile<Int<64>, Int<Shape::kWidth>>{};
  Tensor rK = thr_scores.partition_fragment_A(local_tile(sK(_, _, 0), my_rows, make_coord(group, 0)));
  Tensor rV = thr_scores.partition_fragment_A(local_tile(sV(_, _, 0), my_rows, make_coord(group, 0)));
  Tensor rQ = thr_scores.partition_fragment_B(sQ);
  Tensor rD = thr_scores.partition_fragment_B(sD);
  auto dims = cute::Tile<Int<Shape::kDim>, Int<Shape::kColumns>>{};
  Tensor rQt = thr_keys.partition_fragment_B(local_tile(sQt, dims, make_coord(0, 0, _)));
  Tensor rDt = thr_keys.partition_fragment_B(local_tile(sDt, dims, make_coord(0, 0, _)));
  Tensor rKt = thr_queries.partition_fragment_B(
      local_tile(sKt(_, _, 0), cute::Tile<Int<Shape::kSlice>, Int<Shape::kRows>>{}, make_coord(group, 0)));

  Tensor scores = partition_fragment_C(mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor dp = partition_fragment_C(mma_scores, cute::Shape<_64, Int<Shape::kColumns>>{});
  Tensor dk = partition_fragment_C(mma_keys, cute::Shape<_64, Int<Shape::kDim>>{});
  Tensor dv = partition_fragment_C(mma_keys, cute::Shape<_64, Int<Shape::kDim>>{});
  auto operand = thr_keys.partition_fragment_A(make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)),
                                                           make_layout(cute::Shape<_64, Int<Shape::kColumns>>{})));
  Tensor probabilities = make_tensor<Element>(operand.layout());
  Tensor ds = make_tensor<Element>(operand.layout());

  auto product = [&](auto& a, auto& bt, auto& c, int at) {
    if constexpr (Shape::kSkips) {
      work_out_here(a);
      work_out_here(bt);
    }
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma_scores.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int k = 0; k < (Shape::kDim + 15) / 16; ++k) {
      cute::gemm(mma_scores, a(_, _, k), bt(_, _, k, at), c);
      mma_scores.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  };

  int stage = 0, phase = 0, kv_phase = 0, odd = 0;  // notes of items alternate as the phase of their barrier does

  // dQ of a block, once both warpgroups have left their dS: under way on return.
  auto multiply_queries = [&] {
    cutlass::arch::fence_view_async_shared();
    if (!Shape::kDirectQueries && thread == 0)
      asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");  // my slice of dq is free
    cutlass::arch::NamedBarrier::sync(kConsumerThreads, 1);
    Tensor dq = partition_fragment_C(mma_queries, cute::Shape<Int<Shape::kColumns>, Int<Shape::kSlice>>{});
    Tensor sS = make_tensor(make_smem_ptr(s.ds[odd]), typename Shape::LayoutS{});  // (query, key)
    Tensor rS = thr_queries.partition_fragment_A(sS);
    Tensor keys = rKt;
    if constexpr (Shape::kSkips) {
      work_out_here(rS);
      work_out_here(keys);
    }
    warpgroup_fence_operand(dq);
    warpgroup_arrive();
    mma_queries.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int k = 0; k < Shape::kRows / 16; ++k) {
      cute::gemm(mma_queries, rS(_, _, k), keys(_, _, k), dq);
      mma_queries.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
    return dq;
  };
  auto add_queries = [&](const KeyItemNote& item, const KeyBlockNote& b, const auto& dq) {
    if constexpr (Shape::kDirectQueries) {
      add_queries_directly<Shape>(p, item, b.head, b.row * item.stride + b.residue, b.columns, group, row0, column0,
                                  dq);
    } else {
      store_queries<Shape>(b, group, dq, s.dq);
      cutlass::arch::fence_view_async_shared();
      cutlass::arch::NamedBarrier::sync(128, 2 + group);  // my slice of dq is written
      if (thread == 0) add_stored_queries<Shape>(maps.of_stride[item.map].dq, p.len_q, item, b, group, s.dq);
    }
  };
  for (;;) {
    s.kv_full.wait(kv_phase);
    const KeyItemNote& item = s.item[kv_phase];
    kv_phase ^= 1;
    if (item.stop) break;
    begin_keys<Shape>(p, item, dk, dv, row0, column0);
    // Early scores: after the last block that product is of whatever the buffer holds, and nobody reads it. The
    // compiler must see one loop with no product under way at its end, or it waits after every product.
    bool last = !item.blocks;
    if (Shape::kEarlyScores && !last) {
      s.q_full[stage].wait(phase);
      product(rK, rQ, scores, stage);
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
    }
    while (!last) {
      if constexpr (!Shape::kEarlyScores) s.q_full[stage].wait(phase);
      const KeyBlockNote b = s.block[stage];
      const int now = stage;
      last = b.last;
      if constexpr (Shape::kSkips) {
        if (!__any_sync(~0u, seen_by_rows(b, 64 * group))) {  // nothing of it is mine but a share of dQ
          if (last) release(s.v_empty);
          clear_scores<Shape>(s.ds[odd], 64 * group);
          Tensor dq = multiply_queries();
          if (++stage == Shape::kStages) stage = 0, phase ^= 1;
          warpgroup_wait<0>();
          warpgroup_fence_operand(dq);
          if (last) release(s.k_empty);
          add_queries(item, s.block[now], dq);
          release(s.q_empty[now]);
          odd ^= 1;
          clear(scores);  // or the fences of the next block keep what they were
          clear(dp);
          continue;
        }
      }
      // Read ahead of the products, which leave shared memory little time for anything else.
      float4 lse[Shape::kColumns / 16];
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 16; ++n) lse[n] = s.rows_of(now, 0, n, column0);
      if constexpr (!Shape::kEarlyScores) product(rK, rQ, scores, stage);
      product(rV, rD, dp, now);
      if constexpr (!Shape::kEarlyScores) {
        warpgroup_wait<1>();
        warpgroup_fence_operand(scores);
      }
      if constexpr (Shape::Calls::kAlibi) {
        if (p.adjusts_scores())
          adjust_scores<Shape::kColumns>(p, b.head, item.row0 + row0 * item.stride, b.column0 + column0 * item.stride,
                                         item.stride, scores);
      }
      exponentiate<kExact>(
          scores,
          [&](int i) {
            const float4& four = lse[i / 8];
            return i / 4 % 2 ? (i % 2 ? four.w : four.z) : (i % 2 ? four.y : four.x);
          },
          p.scale, p.scale_log2, b.weight_log2);
      if constexpr (Shape::Calls::kDrops) {
        if (!Shape::Calls::kAlibi || p.dropout.seed) {
          const uint32_t keys[2] = {s.words.keys[now][row0], s.words.keys[now][row0 + 8]};
#pragma unroll
          for (int n = 0; n < Shape::kColumns / 8; ++n) {
            const uint4 its = s.words.queries_of(now, n, column0);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              mark_dropped(core::dropout_draw(i % 2 ? its.y : its.x, keys[i / 2], i % 2 ? its.w : its.z),
                           p.dropout.threshold, scores[4 * n + i]);
          }
        }
      }
      if (b.masked) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = row0 + 8 * r;
          const int begin =
              row >= (b.rows & 0xffff) && row < b.rows >> 16 ? row + b.diagonals.begin() : Shape::kColumns;
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
      float4 delta[Shape::kColumns / 16];  // likewise
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 16; ++n) delta[n] = s.rows_of(now, 1, n, column0);
      if constexpr (Shape::Calls::kDrops) {
        auto pairs = recast<uint32_t>(probabilities);
#pragma unroll
        for (int i = 0; i < size(pairs); ++i) pairs[i] = kept_operands<Element>(scores[2 * i], scores[2 * i + 1]);
      } else {
#pragma unroll
        for (int i = 0; i < size(scores); ++i) probabilities[i] = static_cast<Element>(scores[i]);
      }
      auto accumulate = [&](auto& a, auto& bt, auto& c) {
        warpgroup_fence_operand(c);
        warpgroup_fence_operand(a);
        warpgroup_arrive();
        mma_keys.accumulate_ = GMMA::ScaleOut::One;
#pragma unroll
        for (int k = 0; k < Shape::kColumns / 16; ++k) cute::gemm(mma_keys, a(_, _, k), bt(_, _, k, now), c);
        warpgroup_commit_batch();
      };
      accumulate(probabilities, rDt, dv);
      warpgroup_wait<1>();
      warpgroup_fence_operand(dp);
      if (last) release(s.v_empty);
      // dS^T = P^T (out_scale * dP^T - delta)
      const float gain = p.out_scale * p.dropout.gain;
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 8; ++n) {
        const float its[2] = {n % 2 ? delta[n / 2].z : delta[n / 2].x, n % 2 ? delta[n / 2].w : delta[n / 2].y};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 4 * n + i;
          if constexpr (Shape::Calls::kDrops) {
            score_gradient(scores[at], gain, its[i % 2], dp[at]);
          } else {
            dp[at] = scores[at] * fmaf(dp[at], gain, -its[i % 2]);
          }
        }
      }
      if (b.masked) {  // 0, not 0 * NaN, for pairs that are none
#pragma unroll
        for (int i = 0; i < size(dp); ++i) dp[i] = scores[i] == 0.f ? 0.f : dp[i];
      }
#pragma unroll
      for (int i = 0; i < size(dp); ++i) ds[i] = static_cast<Element>(dp[i]);
      store_scores<Shape>(ds, s.ds[odd], 64 * group);
      Tensor dq = multiply_queries();
      accumulate(ds, rQt, dk);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
      if constexpr (Shape::kEarlyScores) {
        if (!last) s.q_full[stage].wait(phase);
        product(rK, rQ, scores, stage);
        warpgroup_wait<2>();
      } else {
        warpgroup_wait<1>();
      }
      warpgroup_fence_operand(dq);
      if (last) release(s.k_empty);  // scores begun early after the last block read what comes next, and are not read
      add_queries(item, Shape::kSkips ? s.block[now] : b, dq);  // read again where no registers keep it
      warpgroup_wait<0>();
      if constexpr (Shape::kEarlyScores) warpgroup_fence_operand(scores);
      warpgroup_fence_operand(dk);
      warpgroup_fence_operand(dv);
      release(s.q_empty[now]);
      odd ^= 1;
    }
    if (!item.blocks) {
      release(s.v_empty);
      release(s.k_empty);
    }
    // The note stays until the next item but one. The dS of the last block but one has been read, and these rows of its
    // buffer are this warp's to write.
    const uint32_t staging = cute::cast_smem_ptr_to_uint(s.ds[odd]) + (64 * group + 16 * (thread / 32)) * 128;
    store_keys<Shape>(p, item, dk, dv, row0, column0, staging);
  }
  if (!Shape::kDirectQueries && thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    backward_kernel(const __grid_constant__ BackwardParams p, const __grid_constant__ BackwardMapSet maps) {
  extern __shared__ __align__(1024) char memory[];
  auto& s = *reinterpret_cast<BackwardStorage<Shape>*>(memory);
  if (threadIdx.x == 0) {
    s.kv_full.init(1);
    s.raw.init(1);
    s.k_empty.init(4 * Shape::kConsumers);
    s.v_empty.init(4 * Shape::kConsumers);
    for (int i = 0; i < Shape::kStages; ++i) {
      s.q_full[i].init(32 + 1);
      s.q_empty[i].init(4 * Shape::kConsumers);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    cutlass::arch::warpgroup_reg_dealloc<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) produce_backward<Shape>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<Shape::kConsumerRegisters>();
    if (*p.exact) {
      consume_backward<Shape, true>(p, maps, s);
    } else {
      consume_backward<Shape, false>(p, maps, s);
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
