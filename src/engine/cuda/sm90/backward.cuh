// The backward kernel for Hopper: one tile of keys against its runs of queries. dK and dV stay in registers; dQ is
// added to a float32 buffer by the copy engine. Launched by backward_launch.cu, once for partial and once for base
// levels of the transposed plan. Everything is computed transposed, keys as rows, so that P and dS feed the next
// product from registers.
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/backward_store.cuh"
#include "engine/cuda/sm90/backward_values.h"
#include "engine/cuda/sm90/dropout.cuh"
#include "engine/cuda/sm90/exponential.cuh"
#include "engine/cuda/sm90/load.cuh"
#include "engine/cuda/sm90/pipeline.cuh"

namespace longstride::engine::cuda::sm90 {

template <class Element_, int kDim_, class Dropout_>
struct BackwardShape {
  using Element = Element_;
  using Dropout = Dropout_;
  static constexpr int kDim = kDim_;
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;
  static constexpr int kWidth = (kDim + kBox - 1) / kBox * kBox;
  static constexpr int kConsumers = 2;
  static constexpr int kRows = 64 * kConsumers;  // keys
  static constexpr int kColumns = 64;  // queries: dK, dV, scores and dP share the registers; 128 spill even at dim 64
  static constexpr int kStages = 2;
  // Whether the scores of a block are multiplied while the block before is finished; at 128 the registers do not
  // suffice.
  static constexpr bool kEarlyScores = kDim <= 64;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kSlice = kWidth / kConsumers;       // columns of dQ that one warpgroup computes
  static constexpr int kQueryParts = kColumns / 64;        // dQ is computed 64 queries at a time
  static constexpr int kSliceBox = kSlice % 32 ? 16 : 32;  // floats in a row of a box of dQ
  static constexpr int kSliceBoxes = kSlice / kSliceBox;

  using Atom =
      std::conditional_t<kBox == 32, cute::GMMA::Layout_K_SW64_Atom<Element>, cute::GMMA::Layout_K_SW128_Atom<Element>>;
  template <int kN, class... Stage>
  using Rows = decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kN>, cute::Int<kWidth>, Stage...>{}));
  template <int kN, class Layout, int kS>
  using Turned = decltype(cute::composition(
      Layout{}, cute::make_layout(cute::Shape<cute::Int<kWidth>, cute::Int<kN>, cute::Int<kS>>{},
                                  cute::Stride<cute::Int<kN>, cute::_1, cute::Int<kN * kWidth>>{})));
  using LayoutK = Rows<kRows, cute::_1>;
  using LayoutKt = Turned<kRows, LayoutK, 1>;
  using LayoutQ = Rows<kColumns, cute::Int<kStages>>;
  using LayoutQt = Turned<kColumns, LayoutQ, kStages>;
  // dS as keys x queries, queries contiguous: the A operand of dQ = dS^T K read the other way round.
  using LayoutS = decltype(cute::tile_to_shape(cute::GMMA::Layout_MN_SW128_Atom<Element>{},
                                               cute::Shape<cute::Int<kColumns>, cute::Int<kRows>>{},
                                               cute::Step<cute::_2, cute::_1>{}));
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kColumns>, cute::_16>>()));
  using MmaKeys = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kDim>, cute::_16>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));
  using MmaQueries = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kSlice>, cute::_16>,
                                 cute::GMMA::Major::MN, cute::GMMA::Major::MN>()));
  static constexpr int kKeyBytes = kRows * kWidth * sizeof(Element);
  static constexpr int kQueryBytes = kColumns * kWidth * sizeof(Element);
};

template <class Shape>
struct BackwardStorage {
  using Element = typename Shape::Element;
  alignas(1024) Element k[Shape::kRows * Shape::kWidth];
  alignas(1024) Element v[Shape::kRows * Shape::kWidth];
  alignas(1024) Element q[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(1024) Element d_out[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(1024) Element ds[2][Shape::kColumns * Shape::kRows];  // a warpgroup may write while the other still reads
  alignas(1024) float dq[Shape::kColumns * Shape::kWidth];
  alignas(16) float2 row[Shape::kStages][Shape::kColumns];  // lse_log2, delta
  // barrier           arrives                                        waits        count
  // kv_full           producer lane + TMA bytes (or later: raw)      consumers    1
  // k_empty, v_empty  each consumer warp, after the tile's last      producer     4 * kConsumers
  //                   product with K, with V
  // q_full[s]         producer warp (row copies) + lane 0 + bytes    consumers    32 + 1
  // raw               producer lane + TMA bytes of a tile with rows  producer     1
  //                   to be zeroed, which then arrives at the others
  // q_empty[s]        each consumer warp                             producer     4 * kConsumers
  // named barrier 1: dS is written and dq is free, all consumers; 2, 3: a warpgroup's slice of dq is written
  cutlass::arch::ClusterTransactionBarrier kv_full, q_full[Shape::kStages], raw;
  cutlass::arch::ClusterBarrier k_empty, v_empty, q_empty[Shape::kStages];
  KeyBlockNote block[Shape::kStages];
  KeyItemNote item[2];
};

// Zeroes the rows of K that no query of the tile sees. A rare tile: some lane looks at every row.
template <class Shape>
__device__ __forceinline__ void zero_unseen(typename Shape::Element* tile, const Run* runs, const Tile& its) {
  constexpr int kPieces = Shape::kBox * sizeof(typename Shape::Element) / 16;
#pragma unroll 1
  for (int row = threadIdx.x % 32; row < its.rows; row += 32) {
    bool seen = false;
#pragma unroll 1
    for (uint32_t i = 0; i < its.run_count; ++i) seen = seen || seen_by(runs[i], row);
    if (seen) continue;
#pragma unroll 1
    for (int i = 0; i < Shape::kWidth / Shape::kBox * kPieces; ++i) {
      auto* box = reinterpret_cast<uint4*>(tile + (i / kPieces * Shape::kRows + row) * Shape::kBox);
      box[i % kPieces] = make_uint4(0, 0, 0, 0);
    }
  }
}

// Brings the partial results that a base tile begins with nearer, into L2, while the tile before is computed.
template <class Shape>
__device__ __forceinline__ void fetch_partials(const BackwardParams& p, const Tile& tile, const Place& at) {
  const int64_t first = (int64_t(at.batch) * p.kv_heads + at.kv_head) * p.partial_rows;
#pragma unroll 1
  for (int i = 0; i < tile.merge_count; ++i) {
    const Merge& m = p.plan.merges[tile.merge_begin + i];
#pragma unroll 1
    for (int n = threadIdx.x % 32; n < m.rows; n += 32) {
      const int64_t slot = first + m.slot + int64_t(n) * m.slot_step + m.slot_shift * at.repeat;
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
  int64_t index = blockIdx.x;
  while (index < p.items) {
    const Place at = locate(p.lanes, p.lane_count, 1, index, p.plan);
    const Tile& tile = p.plan.tiles[at.tile];
    const BackwardMaps& m = maps.of_stride[at.map];
    const int32_t row0 = static_cast<int32_t>(tile.row0) + at.shift;
    BlockWalk walk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
    bool more = !walk.done();
    if (lane == 0) index = atomicAdd(p.ticket, 1ull) + gridDim.x;
    index = __shfl_sync(~0u, index, 0);
    fetch_partials<Shape>(p, tile, at);
    s.v_empty.wait(kv_phase);
    KeyItemNote& item = s.item[note];
    note ^= 1;
    const bool ragged = tile.rows < Shape::kRows || p.plan.ragged[at.tile];
    auto& kv_bar = ragged ? s.raw : s.kv_full;
    if (lane == 0) {
      item.row0 = row0;
      item.stride = at.stride;
      item.slot = at.slot;
      item.repeat = at.repeat;
      item.rows = tile.rows;
      item.batch = at.batch;
      item.kv_head = at.kv_head;
      item.merge_begin = tile.merge_begin;
      item.merge_count = tile.merge_count;
      item.map = at.map;
      item.blocks = more;
      item.stop = 0;
      kv_bar.arrive_and_expect_tx(2 * Shape::kKeyBytes);
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.v, p.len_k, at.stride, row0, at.kv_head, at.batch, kv_bar,
                                                          s.v);
    }
    s.k_empty.wait(kv_phase);
    kv_phase ^= 1;
    if (lane == 0)
      load_rows<Shape::kBox, Shape::kWidth, Shape::kRows>(m.k, p.len_k, at.stride, row0, at.kv_head, at.batch, kv_bar,
                                                          s.k);
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
      const Block now = walk.at(tile.rows, at.stride, at.shift);
      const int head = at.kv_head * p.group + member;
      walk.advance();
      if (walk.done()) {
        if (++member == p.group) {
          more = false;
        } else {
          walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, Direction::kTransposed, Shape::kColumns);
        }
      }
      s.q_empty[stage].wait(phase);
      const int32_t position = now.column0 - p.query_start;
      const float2* rows = p.rows + (int64_t(at.batch) * p.heads + head) * p.len_q;
#pragma unroll
      for (int i = lane; i < Shape::kColumns; i += 32) {
        // Rows beyond the block are not read: the mask keeps them out.
        const uint32_t to = cute::cast_smem_ptr_to_uint(&s.row[stage][i]);
        const bool valid = i < now.columns;
        const float2* from = rows + (valid ? position + i * at.stride : 0);
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(from), "r"(valid ? 8 : 0)
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
        b.diagonal = now.diagonal;
        b.rows = now.rows;
        b.weight_log2 = now.weight == 1 ? 0.f : log2f(float(now.weight));
        b.masked = now.masked;
        b.last = !more;
        b.head = head;
        b.row = position / at.stride;
        b.residue = position - b.row * at.stride;
        q_bar.arrive_and_expect_tx(2 * Shape::kQueryBytes);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.q, p.len_q, at.stride, position, head, at.batch, q_bar,
                                                               s.q + at_stage);
        load_rows<Shape::kBox, Shape::kWidth, Shape::kColumns>(m.d_out, p.len_q, at.stride, position, head, at.batch,
                                                               q_bar, s.d_out + at_stage);
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

// Adds one warpgroup's slice of a block's dQ, left in shared memory, to the float32 buffer. One thread calls it.
template <class Shape>
__device__ __forceinline__ void add_queries(const MapPair& maps, int len_q, const KeyItemNote& item,
                                            const KeyBlockNote& b, int group, const float* dq) {
  const CUtensorMap* map = b.residue < len_q % item.stride ? &maps.front : &maps.all;
#pragma unroll
  for (int part = 0; part < Shape::kQueryParts; ++part) {
    if (part > 0 && 64 * part >= b.columns) break;
#pragma unroll
    for (int i = 0; i < Shape::kSliceBoxes; ++i) {
      const int box = group * Shape::kSliceBoxes + i;
      const uint32_t from = cute::cast_smem_ptr_to_uint(dq + (part * Shape::kWidth + box * Shape::kSliceBox) * 64);
      asm volatile(
          "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::
              "l"(map),
          "r"(from), "r"(box * Shape::kSliceBox), "r"(b.residue), "r"(b.row + 64 * part), "r"(b.head), "r"(item.batch)
          : "memory");
    }
  }
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// dS^T to shared memory: keys are its rows of 64 queries, in the 128-byte swizzle that the tensor cores read. Four
// blocks of 8 keys x 8 queries an instruction; lane l gives the address of row l % 8 of block l / 8. The addresses are
// made anew every time (opaque), or the compiler keeps them all in registers.
template <class Shape, class Scores>
__device__ __forceinline__ void store_scores(const Scores& ds, typename Shape::Element* to, int key0) {
  const int lane = threadIdx.x % 32;
  const int key = key0 + 16 * (threadIdx.x % 128 / 32) + lane / 8 % 2 * 8 + lane % 8;
  uint32_t row = cute::cast_smem_ptr_to_uint(to) + key * 128;
  uint32_t swizzle = (lane / 16 ^ lane % 8) << 4;
  asm volatile("" : "+r"(row), "+r"(swizzle));
#pragma unroll
  for (int n = 0; n < Shape::kColumns / 8; n += 2) {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const typename Shape::Element pair[2] = {ds[4 * (n + i / 2) + 2 * (i % 2)],
                                               ds[4 * (n + i / 2) + 2 * (i % 2) + 1]};
      pairs[i] = *reinterpret_cast<const uint32_t*>(pair);
    }
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row + (n << 4 ^ swizzle)),
                 "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                 : "memory");
  }
}

template <class Shape>
__device__ void consume_backward(const BackwardParams& p, const BackwardMapSet& maps, BackwardStorage<Shape>& s) {
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

  int stage = 0, phase = 0, kv_phase = 0, note = 0, odd = 0;
  for (;;) {
    s.kv_full.wait(kv_phase);
    kv_phase ^= 1;
    const KeyItemNote& item = s.item[note];
    note ^= 1;
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
      if constexpr (!Shape::kEarlyScores) {
        s.q_full[stage].wait(phase);
        product(rK, rQ, scores, stage);
      }
      const KeyBlockNote b = s.block[stage];
      const int now = stage;
      last = b.last;
      product(rV, rD, dp, now);
      if constexpr (!Shape::kEarlyScores) {
        warpgroup_wait<1>();
        warpgroup_fence_operand(scores);
      }
      // P^T = weight * exp2(score - lse)
#pragma unroll
      for (int n = 0; n < Shape::kColumns / 8; ++n) {
        const float4 rows = *reinterpret_cast<const float4*>(&s.row[now][8 * n + column0]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          scores[4 * n + 2 * r] = exp2_unit(fmaf(scores[4 * n + 2 * r], p.scale_log2, b.weight_log2 - rows.x));
          scores[4 * n + 2 * r + 1] = exp2_unit(fmaf(scores[4 * n + 2 * r + 1], p.scale_log2, b.weight_log2 - rows.z));
        }
      }
      if (b.masked) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int row = row0 + 8 * r;
          const int begin = row >= (b.rows & 0xffff) && row < b.rows >> 16 ? row + b.diagonal : Shape::kColumns;
#pragma unroll
          for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int i = 8 * n + column0 + c;
              float& x = scores[4 * n + 2 * r + c];
              x = i >= begin && i < b.columns ? x : 0.f;
            }
        }
      }
      [[maybe_unused]] Kept<Shape::kColumns> kept;
      if constexpr (Shape::Dropout::kDrops) {
        kept =
            draw<Shape::kColumns>(p.dropout, false, item.row0 + row0 * item.stride, b.column0 + column0 * item.stride,
                                  item.stride, uint32_t(item.batch * p.heads + b.head));
      }
      auto dropped = [&](float x, int i) {
        if constexpr (Shape::Dropout::kDrops) return kept.at(i) ? x : 0.f;
        return x;
      };
#pragma unroll
      for (int i = 0; i < size(scores); ++i) probabilities[i] = static_cast<Element>(dropped(scores[i], i));
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
        const float4 rows = *reinterpret_cast<const float4*>(&s.row[now][8 * n + column0]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int i = 4 * n + 2 * r;
          dp[i] = scores[i] * fmaf(dropped(dp[i], i), gain, -rows.y);
          dp[i + 1] = scores[i + 1] * fmaf(dropped(dp[i + 1], i + 1), gain, -rows.w);
        }
      }
      if (b.masked) {  // 0, not 0 * NaN, for pairs that are none
#pragma unroll
        for (int i = 0; i < size(dp); ++i) dp[i] = scores[i] == 0.f ? 0.f : dp[i];
      }
#pragma unroll
      for (int i = 0; i < size(dp); ++i) ds[i] = static_cast<Element>(dp[i]);
      store_scores<Shape>(ds, s.ds[odd], 64 * group);
      cutlass::arch::fence_view_async_shared();
      if (thread == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");  // my slice of dq is free
      cutlass::arch::NamedBarrier::sync(kConsumerThreads, 1);
      Tensor dq = partition_fragment_C(mma_queries, cute::Shape<Int<Shape::kColumns>, Int<Shape::kSlice>>{});
      Tensor sS = make_tensor(make_smem_ptr(s.ds[odd]), typename Shape::LayoutS{});  // (query, key)
      Tensor rS = thr_queries.partition_fragment_A(sS);
      warpgroup_fence_operand(dq);
      warpgroup_arrive();
      mma_queries.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
      for (int k = 0; k < Shape::kRows / 16; ++k) {
        cute::gemm(mma_queries, rS(_, _, k), rKt(_, _, k), dq);
        mma_queries.accumulate_ = GMMA::ScaleOut::One;
      }
      warpgroup_commit_batch();
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
        // Rows of a box are 128 bytes (or 64), 16-byte pieces permuted by the row: the copy engine's swizzle.
#pragma unroll
      for (int part = 0; part < Shape::kQueryParts; ++part) {
        constexpr int kRowBytes = Shape::kSliceBox * 4, kRowPieces = kRowBytes / 32;
        const int query = row0 % 64;
        uint32_t to = cast_smem_ptr_to_uint(s.dq) + (part * Shape::kWidth + group * Shape::kSlice) * 64 * 4 +
                      query * kRowBytes + column0 % 4 * 4;
        uint32_t swizzle = (kRowBytes == 128 ? query % 8 : query / 2 % 4) << 4;
        asm volatile("" : "+r"(to), "+r"(swizzle));
        Tensor mine = dq(_, part, _);
#pragma unroll
        for (int n = 0; n < Shape::kSlice / 8; ++n) {
          const uint32_t at =
              to + n / kRowPieces * 64 * kRowBytes + ((n % kRowPieces * 32 + column0 / 4 * 16) ^ swizzle);
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const bool valid = 64 * part + query + 8 * r < b.columns;
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at + r * 8 * kRowBytes),
                         "f"(valid ? mine(4 * n + 2 * r) : 0.f), "f"(valid ? mine(4 * n + 2 * r + 1) : 0.f)
                         : "memory");
          }
        }
      }
      cutlass::arch::fence_view_async_shared();
      cutlass::arch::NamedBarrier::sync(128, 2 + group);  // my slice of dq is written
      if (thread == 0) add_queries<Shape>(maps.of_stride[item.map].dq, p.len_q, item, b, group, s.dq);
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
    // The note stays until the next item but one.
    store_keys<Shape>(p, item, dk, dv, row0, column0);
  }
  if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
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
    cutlass::arch::warpgroup_reg_dealloc<24>();
    if (threadIdx.x < 32) produce_backward<Shape>(p, maps, s);
  } else {
    cutlass::arch::warpgroup_reg_alloc<240>();
    consume_backward<Shape>(p, maps, s);
  }
}

}  // namespace longstride::engine::cuda::sm90
