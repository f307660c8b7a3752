// Launches the kernels of this folder: partial levels, then base levels. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <limits>
#include <string>

#include "engine/cuda/score_scale.h"
#include "engine/cuda/sm80/forward.cuh"
#include "engine/cuda/sm80/gradient.cuh"
#include "engine/cuda/sm80/launches.h"
#include "engine/cuda/sm80/split_forward.cuh"
#include "engine/cuda/sm80/split_gradient.cuh"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm80 {

template <class Tag>
struct DeviceElement {
  using Type = float;
};
template <>
struct DeviceElement<core::BFloat16> {
  using Type = cute::bfloat16_t;
};
template <>
struct DeviceElement<core::Float16> {
  using Type = cute::half_t;
};

// The kernels of a dtype and dim, the threads and shared memory of their blocks.
struct Kernel {
  void (*function)(const Values);
  int threads;
  int bytes;
};
struct Kernels {
  Kernel forward, query_gradient, key_gradient;
};
template <class Element, int kDim>
constexpr Kernels kKernels = [] {
  if constexpr (std::is_same_v<Element, float> && kDim <= kMostSplitDim) {
    using Forward = SplitForward<kDim>;
    using Gradient = SplitGradient<kDim>;
    constexpr int kBytes = sizeof(SplitGradientStorage<Gradient>);
    return Kernels{{split_forward_kernel<Forward>, Forward::kThreads, sizeof(SplitForwardStorage<Forward>)},
                   {split_query_gradient_kernel<Gradient>, Gradient::kThreads, kBytes},
                   {split_key_gradient_kernel<Gradient>, Gradient::kThreads, kBytes}};
  } else {
    using Shape = sm80::Shape<Element, kDim>;
    constexpr int kBytes = sizeof(GradientStorage<Shape>);
    return Kernels{{forward_kernel<Shape>, Shape::kThreads, sizeof(ForwardStorage<Shape>)},
                   {query_gradient_kernel<Shape>, Shape::kThreads, kBytes},
                   {key_gradient_kernel<Shape>, Shape::kThreads, kBytes}};
  }
}();

template <class Ref>
Strided tensor(const Ref& t, int64_t dim, int64_t element_bytes) {
  const int64_t piece = 16 / element_bytes;
  const bool wide = dim % piece == 0 && t.batch_stride % piece == 0 && t.len_stride % piece == 0 &&
                    t.head_stride % piece == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  return {const_cast<void*>(static_cast<const void*>(t.data)), t.batch_stride, t.len_stride, t.head_stride, wide};
}

// What all launches of a problem share.
template <class Element>
Values values(const Problem& p) {
  Values v;
  v.query_start = static_cast<int32_t>(p.query_start);
  v.len_q = static_cast<int32_t>(p.len_q);
  v.heads = static_cast<int32_t>(p.heads);
  v.kv_heads = static_cast<int32_t>(p.kv_heads);
  v.dim = static_cast<int32_t>(p.dim);
  v.group = static_cast<int32_t>(p.heads / p.kv_heads);
  v.scale = static_cast<float>(p.scale);
  v.scale_log2 = std::abs(scale_log2(p.scale));
  v.out_scale = static_cast<float>(p.out_scale);
  v.dropout = dropout_values(p);
  v.q = tensor(p.q, p.dim, sizeof(Element));
  v.k = tensor(p.k, p.dim, sizeof(Element));
  v.v = tensor(p.v, p.dim, sizeof(Element));
  v.out = tensor(p.out, p.dim, sizeof(Element));
  v.lse = static_cast<float*>(p.lse);
  return v;
}

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
void launch_forward(const Problem& p, const DevicePlan& plan, Scratch& scratch, cudaStream_t stream) {
  using Element = typename DeviceElement<Tag>::Type;
  Values v = values<Element>(p);
  const int64_t slots = p.batch * p.heads * plan.partial_rows();
  v.partial_a = scratch.take<float>(slots * kDim);
  v.partial_softmax = scratch.take<float2>(slots);
  launch_levels(kKernels<Element, kDim>.forward, v, plan, stream);
}

template <class Tag, int kDim>
void launch_backward(const Problem& p, const Gradients& g, const DevicePlan& forward, const DevicePlan& transposed,
                     Scratch& scratch, cudaStream_t stream) {
  using Element = typename DeviceElement<Tag>::Type;
  Values v = values<Element>(p);
  v.d_out = tensor(g.d_out, p.dim, sizeof(Element));
  v.dq = tensor(g.dq, p.dim, sizeof(Element));
  v.dk = tensor(g.dk, p.dim, sizeof(Element));
  v.dv = tensor(g.dv, p.dim, sizeof(Element));
  const int64_t rows = p.batch * p.heads * p.len_q;
  auto* prepared = scratch.take<float2>(rows);
  v.rows = prepared;
  if (rows > 0) {
    prepare_rows_kernel<Element><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
        v, static_cast<const float*>(g.d_lse), rows, prepared);
    check(cudaGetLastError(), "launch of prepare_rows");
  }
  v.partial_a = scratch.take<float>(p.batch * p.heads * forward.partial_rows() * kDim);
  launch_levels(kKernels<Element, kDim>.query_gradient, v, forward, stream);
  const int64_t slots = p.batch * p.kv_heads * transposed.partial_rows();
  v.partial_a = scratch.take<float>(slots * kDim);
  v.partial_b = scratch.take<float>(slots * kDim);
  launch_levels(kKernels<Element, kDim>.key_gradient, v, transposed, stream);
}

}  // namespace longstride::engine::cuda::sm80
