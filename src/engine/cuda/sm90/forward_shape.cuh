// The shape of a forward kernel, its shared memory and its barriers.
#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/tensor.hpp>
#include <type_traits>

#include "engine/cuda/sm90/dropout_words.h"
#include "engine/cuda/sm90/forward_values.h"

namespace longstride::engine::cuda::sm90 {

// kParts: bfloat16 numbers whose sum is an element of a tensor (tile/parts.cuh), 3 of float32. They come as tensors of
// their own (float_parts.h).
// kResident: blocks of the grid that share a multiprocessor; two where tiles have few columns (forward_short.cuh).
template <class Element_, int kDim_, class Calls_, int kParts_ = 1, int kResident_ = 1>
struct ForwardShape {
  using Element = Element_;
  using Calls = Calls_;
  static constexpr int kParts = kParts_;
  static constexpr int kResident = kResident_;
  static constexpr int kDim = kDim_;                              // columns of V that are multiplied
  static constexpr int kBox = kDim % 64 == 32 ? 32 : 64;          // inner extent of a TMA box
  static constexpr int kWidth = (kDim + kBox - 1) / kBox * kBox;  // columns held in shared memory
  static constexpr int kConsumers = 2;                            // warpgroups, 64 queries each
  static constexpr int kRows = 64 * kConsumers;
  // Accumulators leave room for 64 keys.
  static constexpr int kColumns = kDim > 128 || kParts > 1 || kResident > 1 ? 64 : 128;
  static constexpr int kSlice = kParts > 1 && kDim > 96 ? kDim / 2 : kDim;  // columns of V multiplied at a time
  // K and V blocks in flight and Q tiles at hand, as many as fit in 227 KiB: at 128, a third block instead of a second
  // Q took LongNet's 128k from 5.51 to 5.07 ms.
  static constexpr int kQueries = kDim > 96 || kParts > 1 ? 1 : 2;
  static constexpr int kStages = kParts > 1      ? (kWidth <= 64   ? 3
                                                    : kWidth <= 96 ? 2
                                                                   : 1)
                                 : kWidth <= 64  ? 4
                                 : kWidth <= 96  ? 3
                                 : kWidth <= 128 ? 3
                                                 : 2;
  static constexpr int kNotes = 4;  // an item's note is read until its tile is stored: later than its Q is released
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kProducerRegisters = kResident > 1 ? 32 : 40, kConsumerRegisters = kResident > 1 ? 104 : 232;

  using Atom =
      std::conditional_t<kBox == 32, cute::GMMA::Layout_K_SW64_Atom<Element>, cute::GMMA::Layout_K_SW128_Atom<Element>>;
  using LayoutQ = decltype(cute::tile_to_shape(
      Atom{}, cute::Shape<cute::Int<kRows>, cute::Int<kWidth>, cute::Int<kQueries * kParts>>{}));
  using LayoutK = decltype(cute::tile_to_shape(
      Atom{}, cute::Shape<cute::Int<kColumns>, cute::Int<kWidth>, cute::Int<kStages * kParts>>{}));
  // V as the second product wants it: [dim, keys] over the same bytes.
  using LayoutVt = decltype(cute::composition(
      LayoutK{}, cute::make_layout(cute::Shape<cute::Int<kWidth>, cute::Int<kColumns>, cute::Int<kStages * kParts>>{},
                                   cute::Stride<cute::Int<kColumns>, cute::_1, cute::Int<kColumns * kWidth>>{})));
  using MmaScores = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kColumns>, cute::_16>>()));
  using MmaOutput = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<cute::_64, cute::Int<kSlice>, cute::_16>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));

  static constexpr int kRowsBytes = kParts * kRows * kWidth * sizeof(Element);
  static constexpr int kBlockBytes = kParts * kColumns * kWidth * sizeof(Element);
};

// Of kernels with dropout. The salt is guarded as the item's note; the words of a block's keys are as its K, but are
// read after K is released, in the step of the softmax. One buffer more than K has is enough: at the release each warp
// has read the words of the block before.
template <class Shape>
struct ForwardWords {
  using Columns = ColumnWords<Shape::kColumns, 1>;
  static constexpr int kBuffers = Shape::kStages + 1;
  alignas(16) uint32_t keys[kBuffers][Columns::kSize];
  uint32_t query_salt[Shape::kNotes];
  // Of keys 16 n + column0 + {0, 1, 8, 9}.
  __device__ uint4 keys_of(int buffer, int n, int column0) const {
    return *reinterpret_cast<const uint4*>(&keys[buffer][Columns::fours(column0, n)]);
  }
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
  std::conditional_t<Shape::Calls::kDrops, ForwardWords<Shape>, NoWords> words;
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

}  // namespace longstride::engine::cuda::sm90
