// The products of a forward consumer: scores of a block of keys, and weights times values. What differs between numbers
// of 16 bits and floats: these have three parts, six products, and sums that are added on the ordinary cores
// (docs/numerics.md). Used by forward.cuh.
#pragma once

#include <cstdint>
#include <cute/tensor.hpp>
#include <type_traits>
#include <utility>

#include "engine/cuda/sm90/forward_shape.cuh"
#include "engine/cuda/sm90/part_products.cuh"

namespace longstride::engine::cuda::sm90 {

// Operands in shared memory as WGMMA takes them. The last index of each: buffer * kParts + part.
template <class Shape>
__device__ __forceinline__ auto query_operand(ForwardStorage<Shape>& s, int group, int thread) {
  using namespace cute;
  Tensor all = make_tensor(make_smem_ptr(s.q.data()), typename Shape::LayoutQ{});
  return typename Shape::MmaScores{}.get_thread_slice(thread).partition_fragment_A(
      local_tile(all, cute::Tile<Int<64>, Int<Shape::kWidth>>{}, make_coord(group, 0, _)));
}
template <class Shape>
__device__ __forceinline__ auto key_operand(ForwardStorage<Shape>& s, int thread) {
  using namespace cute;
  return typename Shape::MmaScores{}.get_thread_slice(thread).partition_fragment_B(
      make_tensor(make_smem_ptr(s.k.data()), typename Shape::LayoutK{}));
}
// Columns from slice * kSlice on.
template <class Shape>
__device__ __forceinline__ auto value_operand(ForwardStorage<Shape>& s, int thread, int slice) {
  using namespace cute;
  Tensor all = make_tensor(make_smem_ptr(s.v.data()), typename Shape::LayoutVt{});
  return typename Shape::MmaOutput{}.get_thread_slice(thread).partition_fragment_B(
      local_tile(all, cute::Tile<Int<Shape::kSlice>, Int<Shape::kColumns>>{}, make_coord(slice, 0, _)));
}
template <class Shape>
__device__ __forceinline__ auto score_sums() {
  return cute::partition_fragment_C(typename Shape::MmaScores{}, cute::Shape<cute::_64, cute::Int<Shape::kColumns>>{});
}
template <class Shape, int kWidth>
__device__ __forceinline__ auto output_sums() {
  return cute::partition_fragment_C(typename Shape::MmaOutput{}, cute::Shape<cute::_64, cute::Int<kWidth>>{});
}
// Scores' places as the second product takes them from registers; the last index is the part.
template <class Shape>
__device__ __forceinline__ auto weight_operand(int thread) {
  using namespace cute;
  using Element = typename Shape::Element;
  const auto one = typename Shape::MmaOutput{}
                       .get_thread_slice(thread)
                       .partition_fragment_A(make_tensor(make_smem_ptr(static_cast<Element*>(nullptr)),
                                                         make_layout(cute::Shape<_64, Int<Shape::kColumns>>{})))
                       .layout();
  using One = decltype(one);
  return make_tensor<Element>(append(One{}, make_layout(Int<Shape::kParts>{}, Int<cute::size(One{})>{})));
}

template <class Shape>
struct WholeProducts {
  using Storage = ForwardStorage<Shape>;
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaOutput mma_output;
  decltype(query_operand<Shape>(std::declval<Storage&>(), 0, 0)) q;
  decltype(key_operand<Shape>(std::declval<Storage&>(), 0)) k;
  decltype(value_operand<Shape>(std::declval<Storage&>(), 0, 0)) v;
  decltype(score_sums<Shape>()) scores;
  decltype(output_sums<Shape, Shape::kDim>()) output;
  decltype(weight_operand<Shape>(0)) weights;

  __device__ __forceinline__ WholeProducts(Storage& s, int group, int thread)
      : q(query_operand<Shape>(s, group, thread)),
        k(key_operand<Shape>(s, thread)),
        v(value_operand<Shape>(s, thread, 0)) {}

  __device__ __forceinline__ void multiply_scores(int query, int stage) {
    using namespace cute;
    warpgroup_fence_operand(scores);
    warpgroup_arrive();
    mma_scores.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
    for (int x = 0; x < (Shape::kDim + 15) / 16; ++x) {
      cute::gemm(mma_scores, q(_, _, x, query), k(_, _, x, stage), scores);
      mma_scores.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  }
  // Once they are made.
  __device__ __forceinline__ void take_scores() { cute::warpgroup_fence_operand(scores); }
  // Weights become what the next product takes, and the output is multiplied with `rescale` first.
  __device__ __forceinline__ void take_weights(const float (&rescale)[2]) {
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i) weights[i] = static_cast<typename Shape::Element>(scores[i]);
#pragma unroll
    for (int i = 0; i < cute::size(output); ++i) output[i] *= rescale[(i / 2) % 2];
  }
  __device__ __forceinline__ void multiply_output(int stage) {
    using namespace cute;
    warpgroup_fence_operand(output);
    warpgroup_fence_operand(weights);
    warpgroup_arrive();
    mma_output.accumulate_ = GMMA::ScaleOut::One;
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 16; ++n)
      cute::gemm(mma_output, weights(_, _, n, 0), v(_, _, n, stage), output);
    warpgroup_commit_batch();
  }
  __device__ __forceinline__ void finish_output(int) {
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(output);
  }
};

// The sums of a block with values are added to the output by multiply-adds.
template <class Shape>
struct PartProducts {
  static constexpr int kSlices = Shape::kDim / Shape::kSlice;
  using Storage = ForwardStorage<Shape>;
  typename Shape::MmaScores mma_scores;
  typename Shape::MmaOutput mma_output;
  decltype(query_operand<Shape>(std::declval<Storage&>(), 0, 0)) q;
  decltype(key_operand<Shape>(std::declval<Storage&>(), 0)) k;
  decltype(value_operand<Shape>(std::declval<Storage&>(), 0, 0)) v[kSlices];
  decltype(score_sums<Shape>()) scores, small;
  decltype(output_sums<Shape, Shape::kDim>()) output;
  decltype(output_sums<Shape, Shape::kSlice>()) fresh;
  decltype(weight_operand<Shape>(0)) weights;
  float factor[2];  // of the output, before `fresh` is added

  __device__ __forceinline__ PartProducts(Storage& s, int group, int thread)
      : q(query_operand<Shape>(s, __shfl_sync(~0u, group, 0), thread)), k(key_operand<Shape>(s, thread)) {
#pragma unroll
    for (int slice = 0; slice < kSlices; ++slice) v[slice] = value_operand<Shape>(s, thread, slice);
  }

  __device__ __forceinline__ void multiply_scores(int query, int stage) {
    using namespace cute;
    work_out_here(q);
    work_out_here(k);
    warpgroup_fence_operand(scores);
    warpgroup_fence_operand(small);
    warpgroup_arrive();
    sm90::multiply_scores<true, (Shape::kDim + 15) / 16>(mma_scores, PartsOf{q, Shape::kParts * query},
                                                         PartsOf{k, Shape::kParts * stage}, scores, small);
    warpgroup_commit_batch();
  }
  __device__ __forceinline__ void take_scores() {
    cute::warpgroup_fence_operand(scores);
    cute::warpgroup_fence_operand(small);
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i) scores[i] += small[i];
  }
  __device__ __forceinline__ void take_weights(const float (&rescale)[2]) {
    split_into(scores, weights);
    factor[0] = rescale[0];
    factor[1] = rescale[1];
    cute::warpgroup_fence_operand(weights);  // made before the next scores are on their way
  }
  template <int kSlice = 0>
  __device__ __forceinline__ void multiply_output(int stage) {
    using namespace cute;
    work_out_here(v[kSlice]);
    warpgroup_fence_operand(fresh);
    warpgroup_fence_operand(weights);
    warpgroup_arrive();
    multiply_block<Shape::kColumns / 16>(mma_output, PartsOf{weights, 0}, PartsOf{v[kSlice], Shape::kParts * stage},
                                         fresh);
    warpgroup_commit_batch();
  }
  template <int kSlice = 0>
  __device__ __forceinline__ void finish_output(int stage) {
    constexpr int kSize = decltype(cute::size(fresh))::value;
    cute::warpgroup_wait<0>();
    cute::warpgroup_fence_operand(fresh);
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      float& to = output[kSlice * kSize + i];
      to = fmaf(to, factor[(i / 2) % 2], fresh[i]);
    }
    if constexpr (kSlice + 1 < kSlices) {
      multiply_output<kSlice + 1>(stage);
      finish_output<kSlice + 1>(stage);
    }
  }
};

template <class Shape>
using ForwardProducts = std::conditional_t<Shape::kParts == 1, WholeProducts<Shape>, PartProducts<Shape>>;

// Scores that the parts of floats have no number for, infinities among q and k, are summed again as they are. Rolled:
// it is seldom wanted, and addresses of all scores at once have no registers.
template <class Shape, class Scores>
__device__ __forceinline__ void mend_scores(const ForwardParams& p, const ItemNote& item, const BlockNote& b, int row0,
                                            Scores& scores) {
#pragma unroll 1
  for (int at = 0; at < cute::size(scores); ++at) {
    bool mended = false;
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i) mended = mended || (i == at && scores[i] != scores[i]);
    const int row = row0 + at / 2 % 2 * 8, column = at / 4 * 8 + threadIdx.x % 4 * 2 + at % 2;
    if (!mended || row >= item.rows || column >= b.columns) continue;
    const auto* q = static_cast<const float*>(p.float_q.data) + item.batch * p.float_q.batch_stride +
                    int64_t(item.row0 + row * item.stride) * p.float_q.len_stride + item.head * p.float_q.head_stride;
    const auto* k = static_cast<const float*>(p.float_k.data) + item.batch * p.float_k.batch_stride +
                    int64_t(b.column0 + column * item.stride) * p.float_k.len_stride +
                    item.head / p.group * p.float_k.head_stride;
    float sum = 0;
#pragma unroll 1
    for (int x = 0; x < p.dim; ++x) sum = fmaf(q[x], k[x], sum);
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i) scores[i] = i == at ? sum : scores[i];
  }
}

}  // namespace longstride::engine::cuda::sm90
