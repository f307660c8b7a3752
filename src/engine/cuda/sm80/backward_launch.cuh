// Launches the backward in one pass: the kernel over the transposed plan, then dQ narrowed. Included by the files that
// instantiate it.
#pragma once

#include "engine/cuda/sm80/backward.cuh"
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda::sm80 {

template <class Element, int kDim>
constexpr ByExtras kBackward = [] {
  using Shape = BackwardShape<Element, kDim>;
  static_assert(Shape::kRows == most_rows(sizeof(Element), kDim));
  static_assert(sizeof(BackwardStorage<Shape>) <= (kDim <= kMostNarrowDim ? kNarrowBytes : kBroadBytes));
  constexpr int kBytes = sizeof(BackwardStorage<Shape>);
  return ByExtras{{backward_kernel<Shape, true>, Shape::kThreads, kBytes},
                  {backward_kernel<Shape, !Shape::kExtrasApart>, Shape::kThreads, kBytes}};
}();

template <class Tag, int kDim>
void launch_backward(const BackwardProblem& p, const BackwardPlans& plans, Scratch& scratch) {
  using Element = typename DeviceElement<Tag>::Type;
  Values v = gradient_values<Element>(p, scratch);
  const int64_t rows = p.batch * p.heads * p.len_q;
  v.query_sums = scratch.take<float>(rows * kDim);
  check(cudaMemsetAsync(v.query_sums, 0, rows * kDim * sizeof(float), scratch.stream()), "clearing dQ");
  launch_keys<kDim>(kBackward<Element, kDim>(v), p, v, plans.transposed, scratch);
  if (rows == 0) return;
  store_queries_kernel<BackwardShape<Element, kDim>>
      <<<static_cast<unsigned>((rows * (kDim / 8) + 255) / 256), 256, 0, scratch.stream()>>>(v, rows);
  check(cudaGetLastError(), "launch of store_queries");
}

}  // namespace longstride::engine::cuda::sm80
