// What a backward kernel is built of: tile shapes, operand layouts and products by dim, and what lies in shared memory
// with the barriers that guard it. Used by the producer (backward_load.cuh) and the consumers (backward.cuh).
#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/backward_values.h"
#include "engine/cuda/sm90/dropout_words.h"

namespace longstride::engine::cuda::sm90 {

template <class Element_, int kDim_, class Calls_>
struct BackwardShape {
  using Element = Element_;
  using Calls = Calls_;
  static constexpr int kDim = kDim_;
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;
  // Columns held in shared memory. 96 is held as 128, so that dQ's columns divide among the warpgroups box by box.
  static constexpr int kWidth = kDim > 64 ? 128 : (kDim + kBox - 1) / kBox* kBox;
  static constexpr int kConsumers = 2;
  static constexpr int kRows = 64 * kConsumers;  // keys
  static constexpr int kColumns = 64;  // queries: dK, dV, scores and dP share the registers; 128 spill even at dim 64
  static constexpr int kStages = kDim <= 64 ? 3 : 2;  // a third is faster at 64 by 1 %, at 128 slower by 1
  // Whether the scores of a block are multiplied while the block before is finished; at 128 the registers do not
  // suffice.
  static constexpr bool kEarlyScores = kDim <= 64;
  // Whether a warpgroup leaves out the blocks of which its keys see nothing, one in seven of causal LongNet's.
  static constexpr bool kSkips = !kEarlyScores;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kSlice = kWidth / kConsumers;  // columns of dQ that one warpgroup computes
  // Whether threads add dQ to memory themselves (red.v4) instead of by shared memory and the copy engine. Up to 64 that
  // is 10 % faster, since early scores go on meanwhile; at 128 the next block waits for the registers: 7 % slower.
  static constexpr bool kDirectQueries = kEarlyScores;
  // The producer's salts and words of dropout would be spilled with 24. With 232 at 128, products wait for each other.
  static constexpr bool kProducerDraws = Calls::kDrops && kDim <= 96;
  static constexpr int kProducerRegisters = kProducerDraws ? 40 : 24;
  static constexpr int kConsumerRegisters = kProducerDraws ? 232 : 240;
  static constexpr int kSliceBox = 32;  // floats in a row of a box of dQ for the copy engine

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

// Of kernels with dropout: the words of a block's keys and queries, guarded as its rows are. Of the keys too they are
// made for every block, since those of another head differ.
template <class Shape>
struct BackwardWords {
  using Columns = ColumnWords<Shape::kColumns, 2>;
  alignas(16) uint32_t queries[Shape::kStages][Columns::kSize];
  uint32_t keys[Shape::kStages][Shape::kRows];
  // Of queries 8 n + column0 + {0, 1}: words, then shares.
  __device__ uint4 queries_of(int stage, int n, int column0) const {
    return *reinterpret_cast<const uint4*>(&queries[stage][Columns::fours(column0, n)]);
  }
};

template <class Shape>
struct BackwardStorage {
  using Element = typename Shape::Element;
  alignas(1024) Element k[Shape::kRows * Shape::kWidth];
  alignas(1024) Element v[Shape::kRows * Shape::kWidth];
  alignas(1024) Element q[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(1024) Element d_out[Shape::kStages * Shape::kColumns * Shape::kWidth];
  alignas(1024) Element ds[2][Shape::kColumns * Shape::kRows];  // a warpgroup may write while the other still reads
  alignas(1024) float dq[Shape::kDirectQueries ? 32 : Shape::kColumns * Shape::kWidth];
  // lse and delta of the queries: that of query 8 n + 2 c + i at 2 n + i of quarter c, so that a thread, which has
  // the queries of one c, reads 16 bytes at a time. Four floats between quarters keep them in banks of their own.
  static constexpr int kQuarter = Shape::kColumns / 4 + 4;
  alignas(16) float row[Shape::kStages][2][4 * kQuarter];
  // lse (0) or delta (1) of queries 16 n + column0 + {0, 1, 8, 9}.
  __device__ float4 rows_of(int stage, int which, int n, int column0) const {
    return *reinterpret_cast<const float4*>(&row[stage][which][column0 / 2 * kQuarter + 4 * n]);
  }
  // barrier           arrives                                        waits        count
  // kv_full           producer lane + TMA bytes (or later: raw)      consumers    1
  // k_empty, v_empty  each consumer warp, after the tile's last      producer     4 * kConsumers
  //                   product with K, with V
  // q_full[s]         producer warp (row copies) + lane 0 + bytes    consumers    32 + 1
  // raw               producer lane + TMA bytes of a tile with rows  producer     1
  //                   to be zeroed, which then arrives at the others
  // q_empty[s]        each consumer warp                             producer     4 * kConsumers
  // named barrier 1: dS is written and dq is free, all consumers; 2, 3: a warpgroup's slice of dq is written (unless
  // kDirectQueries)
  cutlass::arch::ClusterTransactionBarrier kv_full, q_full[Shape::kStages], raw;
  cutlass::arch::ClusterBarrier k_empty, v_empty, q_empty[Shape::kStages];
  KeyBlockNote block[Shape::kStages];
  KeyItemNote item[2];
  std::conditional_t<Shape::Calls::kDrops, BackwardWords<Shape>, NoWords> words;
};

}  // namespace longstride::engine::cuda::sm90
