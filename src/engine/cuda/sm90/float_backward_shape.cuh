// What the backward kernel of float32 is built of: tile shapes, operand layouts and products by dim, and what lies in
// shared memory with the barriers that guard it. Used by its producer (float_backward_load.cuh) and its consumers
// (float_backward.cuh).
#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_types.h>

#include <cute/tensor.hpp>
#include <type_traits>

#include "engine/cuda/sm90/float_backward_values.h"

namespace longstride::engine::cuda::sm90 {

template <int kDim_, class Calls_>
struct FloatBackwardShape {
  using Element = cutlass::bfloat16_t;
  using Calls = Calls_;
  static constexpr int kParts = 3;  // of a float (tile/parts.cuh)
  static constexpr int kDim = kDim_;
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;
  static constexpr int kWidth = (kDim + kBox - 1) / kBox * kBox;  // columns held in shared memory
  static constexpr int kRows = 64;                                // keys
  static constexpr int kColumns = 64;                             // queries
  static constexpr int kStages = kWidth <= 64 ? 2 : 1;            // at 128 one block of Q and dO is 96 KiB
  static constexpr int kSlice = kWidth / 2;                       // columns of dQ that one warpgroup computes
  static constexpr int kThreads = 3 * 128;

  using Atom =
      std::conditional_t<kBox == 32, cute::GMMA::Layout_K_SW64_Atom<Element>, cute::GMMA::Layout_K_SW128_Atom<Element>>;
  template <int kN, int kTiles>
  using Rows =
      decltype(cute::tile_to_shape(Atom{}, cute::Shape<cute::Int<kN>, cute::Int<kWidth>, cute::Int<kTiles>>{}));
  template <int kN, int kTiles>
  using Turned = decltype(cute::composition(
      Rows<kN, kTiles>{}, cute::make_layout(cute::Shape<cute::Int<kWidth>, cute::Int<kN>, cute::Int<kTiles>>{},
                                            cute::Stride<cute::Int<kN>, cute::_1, cute::Int<kN * kWidth>>{})));
  using LayoutK = Rows<kRows, kParts>;
  using LayoutKt = Turned<kRows, kParts>;
  using LayoutQ = Rows<kColumns, kStages * kParts>;
  using LayoutQt = Turned<kColumns, kStages * kParts>;
  // dS as queries x keys, queries contiguous.
  using LayoutS = decltype(cute::tile_to_shape(cute::GMMA::Layout_MN_SW128_Atom<Element>{},
                                               cute::Shape<cute::Int<kColumns>, cute::Int<kRows>, cute::Int<kParts>>{},
                                               cute::Step<cute::_2, cute::_1, cute::_3>{}));
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kColumns>, cute::_16>>()));
  using MmaKeys = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kDim>, cute::_16>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));
  using MmaQueries = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kSlice>, cute::_16>,
                                 cute::GMMA::Major::MN, cute::GMMA::Major::MN>()));
  static constexpr int kTileBytes = kParts * kRows * kWidth * sizeof(Element);
};

template <class Shape>
struct FloatBackwardStorage {
  using Element = typename Shape::Element;
  static constexpr int kTile = Shape::kParts * Shape::kRows * Shape::kWidth;
  alignas(1024) Element k[kTile];
  alignas(1024) Element v[kTile];
  alignas(1024) Element q[Shape::kStages * kTile];
  alignas(1024) Element d_out[Shape::kStages * kTile];
  // P as floats, each thread's where the other warpgroup's thread of its number finds them; then dS.
  alignas(1024) Element exchange[Shape::kParts * Shape::kRows * Shape::kColumns];
  alignas(16) float2 values[Shape::kStages][Shape::kColumns];  // lse, delta
  // barrier          arrives                                            waits          count
  // rows_full        producer lane + TMA bytes (or later: raw)          consumers      1
  // rows_empty       each consumer warp                                 producer       8
  // q_full[s]        producer warp (values) + lane 0 + TMA bytes        consumers      32 + 1
  // q_empty[s]       each consumer warp                                 producer       8
  // d_full[s]        producer lane + TMA bytes of dO                    consumers      1
  // d_empty[s]       each consumer warp                                 producer       8
  // raw              producer lane + TMA bytes of a tile with rows to   producer       1
  //                  be zeroed, which then arrives at the others
  // p_full           each warp of the first warpgroup                   the second     4
  // ds_full          each warp of the second                            consumers      4
  // exchange_empty   each consumer warp                                 the first      8
  // named barrier 1: the second warpgroup has read P
  cutlass::arch::ClusterTransactionBarrier rows_full, q_full[Shape::kStages], d_full[Shape::kStages], raw;
  cutlass::arch::ClusterBarrier rows_empty, q_empty[Shape::kStages], d_empty[Shape::kStages], p_full, ds_full,
      exchange_empty;
  GradientBlockNote block[Shape::kStages];
  GradientItemNote item[2];
};

template <class Shape>
__device__ __forceinline__ void init_barriers(FloatBackwardStorage<Shape>& s) {
  s.rows_full.init(1);
  s.rows_empty.init(8);
  s.raw.init(1);
  s.p_full.init(4);
  s.ds_full.init(4);
  s.exchange_empty.init(8);
  for (int i = 0; i < Shape::kStages; ++i) {
    s.q_full[i].init(32 + 1);
    s.d_full[i].init(1);
    s.q_empty[i].init(8);
    s.d_empty[i].init(8);
  }
  cutlass::arch::fence_barrier_init();
}

}  // namespace longstride::engine::cuda::sm90
