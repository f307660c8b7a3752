// Launches the kernels of this folder: partial levels, then base levels. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <limits>
#include <string>

#include "engine/cuda/device.h"
#include "engine/cuda/sm80/forward.cuh"
#include "engine/cuda/sm80/gradient.cuh"
#include "engine/cuda/sm80/launches.h"
#include "engine/cuda/sm80/wide_forward.cuh"
#include "engine/cuda/sm80/wide_gradient.cuh"
#include "engine/cuda/tile/launch.cuh"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm80 {

// The kernels of a dtype and dim, the threads and shared memory of their blocks.
struct Kernel {
  void (*function)(const Values);
  int threads;
  int bytes;
};
// A kernel for calls with dropout or ALiBi and one for others.
struct ByExtras {
  Kernel with, without;
  constexpr const Kernel& operator()(const CallValues& v) const {
    return v.dropout.seed || v.adjusts_scores() ? with : without;
  }
};
struct Kernels {
  ByExtras forward, broad_forward;  // the latter where shared memory takes two of its blocks
  Kernel query_gradient, key_gradient;
};

// Columns of a block: with twice as many, half as often goes into the next block what does not multiply, a third of
// what a block of 64 issues at dim 64. Above, registers have no room for so many scores.
template <class Element, int kDim>
constexpr int forward_columns(bool broad) {
  if (sizeof(Element) == 4) return 32;
  return broad && kDim <= 64 ? 128 : 64;
}
template <class Element, int kDim, bool kBroad>
constexpr ByExtras kForward = [] {
  using Shape = ForwardShape<Element, kDim, forward_columns<Element, kDim>(kBroad)>;
  static_assert(Shape::kRows == most_rows(sizeof(Element), kDim));
  // Floats have always asked for more.
  static_assert(sizeof(Element) == 4 || sizeof(ForwardStorage<Shape>) <= (kBroad ? kBroadBytes / 2 : kNarrowBytes));
  constexpr bool kOne = sizeof(Element) == 4;  // floats have one kernel for all
  constexpr int kBytes = sizeof(ForwardStorage<Shape>);
  return ByExtras{{forward_kernel<Shape, true>, Shape::kThreads, kBytes},
                  {forward_kernel<Shape, kOne>, Shape::kThreads, kBytes}};
}();
template <class Element, int kDim>
constexpr Kernels kKernels = [] {
  if constexpr (kDim <= kMostRowDim) {
    using QueryGradient = QueryGradientShape<Element, kDim>;
    using KeyGradient = KeyGradientShape<Element, kDim>;
    constexpr int kRows = most_rows(sizeof(Element), kDim);
    static_assert(QueryGradient::kRows == kRows && KeyGradient::kRows == kRows);
    static_assert(sizeof(Element) == 4 || std::max(sizeof(GradientStorage<QueryGradient>),
                                                   sizeof(GradientStorage<KeyGradient>)) <= kNarrowBytes);
    return Kernels{
        kForward<Element, kDim, false>,
        kForward<Element, kDim, true>,
        {query_gradient_kernel<QueryGradient>, QueryGradient::kThreads, sizeof(GradientStorage<QueryGradient>)},
        {key_gradient_kernel<KeyGradient>, KeyGradient::kThreads, sizeof(GradientStorage<KeyGradient>)}};
  } else {
    using Shape = cuda::Shape<Element, kDim>;
    constexpr int kBytes = sizeof(WideGradientStorage<Shape>);
    constexpr Kernel kForward{wide_forward_kernel<Shape>, Shape::kThreads, sizeof(WideForwardStorage<Shape>)};
    return Kernels{{kForward, kForward},
                   {kForward, kForward},
                   {wide_query_gradient_kernel<Shape>, Shape::kThreads, kBytes},
                   {wide_key_gradient_kernel<Shape>, Shape::kThreads, kBytes}};
  }
}();

inline void launch_levels(const Kernel& kernel, Values v, const DevicePlan& plan, cudaStream_t stream) {
  v.plan = plan.arrays();
  v.partial_rows = plan.partial_rows();
  check(cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.bytes),
        "shared memory that a tile of this dtype and dim needs");
  for (const bool partial : {true, false}) {
    v.partial = partial;
    for (const LaunchLanes& lanes : partial ? plan.partial() : plan.base()) {
      if (lanes.items > std::numeric_limits<int32_t>::max())
        throw Error("the sm80 engine runs at most 2^31 - 1 tiles a launch, got " + std::to_string(lanes.items));
      v.lanes = lanes.lanes;
      v.lane_count = lanes.count;
      kernel.function<<<static_cast<unsigned>(lanes.items), kernel.threads, kernel.bytes, stream>>>(v);
      check(cudaGetLastError(), "launch of an sm80 kernel");
    }
  }
}

template <class Tag, int kDim>
void launch_forward(const ForwardProblem& p, const DevicePlan& plan, Scratch& scratch) {
  using Element = typename DeviceElement<Tag>::Type;
  Values v = values<Element>(p);
  v.out = tensor(p.out, p.dim, sizeof(Element));
  v.lse = static_cast<float*>(p.lse);
  const int64_t slots = p.batch * p.heads * plan.partial_rows();
  v.partial_a = scratch.take<float>(slots * kDim);
  v.partial_softmax = scratch.take<float2>(slots);
  constexpr const Kernels& kernels = kKernels<Element, kDim>;
  const ByExtras& forward = shared_bytes_of_block() < kBroadBytes ? kernels.forward : kernels.broad_forward;
  launch_levels(forward(v), v, plan, scratch.stream());
}

// What both backwards begin with.
template <class Element>
Values gradient_values(const BackwardProblem& p, Scratch& scratch) {
  Values v = values<Element>(p, scratch);
  v.dq = tensor(p.dq, p.dim, sizeof(Element));
  v.dk = tensor(p.dk, p.dim, sizeof(Element));
  v.dv = tensor(p.dv, p.dim, sizeof(Element));
  return v;
}
// A kernel that makes dK and dV, through the transposed plan.
template <int kDim>
void launch_keys(const Kernel& kernel, const BackwardProblem& p, Values v, const DevicePlan& plan, Scratch& scratch) {
  const int64_t slots = p.batch * p.kv_heads * plan.partial_rows();
  v.partial_a = scratch.take<float>(slots * kDim);
  v.partial_b = scratch.take<float>(slots * kDim);
  launch_levels(kernel, v, plan, scratch.stream());
}

template <class Tag, int kDim>
void launch_gradients(const BackwardProblem& p, const BackwardPlans& plans, Scratch& scratch) {
  using Element = typename DeviceElement<Tag>::Type;
  Values v = gradient_values<Element>(p, scratch);
  v.partial_a = scratch.take<float>(p.batch * p.heads * plans.forward->partial_rows() * kDim);
  launch_levels(kKernels<Element, kDim>.query_gradient, v, *plans.forward, scratch.stream());
  launch_keys<kDim>(kKernels<Element, kDim>.key_gradient, p, v, plans.transposed, scratch);
}

}  // namespace longstride::engine::cuda::sm80
