// Launches the backward: rows prepared (lse, delta), the kernel over partial and base levels of the transposed plan, dQ
// narrowed. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "engine/cuda/device.h"
#include "engine/cuda/score_scale.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/sm90/backward.cuh"
#include "engine/cuda/sm90/backward_rows.cuh"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/launches.h"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {

template <class Shape>
void launch_levels(const BackwardProblem& p, const LaunchLanes& lanes, BackwardParams params, const ConstTensorRef& dq,
                   cudaStream_t stream) {
  BackwardMapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const int64_t stride = lanes.strides[i];
    BackwardMaps& m = maps.of_stride[i];
    m.q = make_maps(p.q, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    m.d_out = make_maps(p.d_out, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    m.k = make_maps(p.k, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kRows, Shape::kBox);
    m.v = make_maps(p.v, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kRows, Shape::kBox);
    if (!Shape::kDirectQueries)
      m.dq =
          make_maps(dq, core::DType::kFloat32, p.batch, p.len_q, p.heads, Shape::kWidth, stride, 64, Shape::kSliceBox);
  }
  params.lanes = lanes.lanes;
  params.lane_count = lanes.count;
  params.items = lanes.items;
  constexpr int kBytes = sizeof(BackwardStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  allow_shared_bytes<backward_kernel<Shape>>(kBytes, "shared memory of the backward kernel");
  const int blocks = static_cast<int>(std::min<int64_t>(multiprocessors(), lanes.items));
  backward_kernel<Shape><<<blocks, Shape::kThreads, kBytes, stream>>>(params, maps);
  check(cudaGetLastError(), "launch of the backward kernel");
}

template <class Tag, int kDim, class Calls>
void launch_backward(const BackwardProblem& p, const BackwardPlans& plans, Scratch& scratch) {
  using Element = ElementOf<Tag>;
  using Shape = BackwardShape<Element, kDim, Calls>;
  const DevicePlan& plan = plans.transposed;
  const int64_t rows = p.batch * p.heads * p.len_q;
  const int64_t slots = p.batch * p.kv_heads * plan.partial_rows();
  auto [ticket, dq, prepared, partial] = scratch.take_together<unsigned long long, float, float2, float>(
      {size_t(plan.launches() + 1), size_t(rows * Shape::kWidth), size_t(rows), size_t(2 * slots * Shape::kDim)});
  auto* exact = reinterpret_cast<int32_t*>(ticket + plan.launches());  // cleared with them
  check(cudaMemsetAsync(ticket, 0, (plan.launches() + 1) * sizeof(*ticket), scratch.stream()), "tickets");
  if (rows > 0) prepare_rows<Element, Shape::kWidth>(p, prepared, dq, exact, scratch.stream());
  BackwardParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start);
  params.len_q = static_cast<int32_t>(p.len_q);
  params.len_k = static_cast<int32_t>(p.len_k);
  params.heads = static_cast<int32_t>(p.heads);
  params.kv_heads = static_cast<int32_t>(p.kv_heads);
  params.dim = static_cast<int32_t>(p.dim);
  const ScoreFactors factors = score_factors(p);
  params.scale_log2 = factors.log2;
  params.scale = factors.scale;
  params.result_scale = static_cast<float>(p.scale);
  params.out_scale = static_cast<float>(p.out_scale);
  static_cast<CallValues&>(params) = call_values(p);
  params.rows = prepared;
  params.exact = exact;
  params.dq = dq;
  params.float32_results = p.float32_results;
  params.dk = p.dk.data;
  params.dv = p.dv.data;
  params.dk_batch_stride = p.dk.batch_stride, params.dk_len_stride = p.dk.len_stride,
  params.dk_head_stride = p.dk.head_stride;
  params.dv_batch_stride = p.dv.batch_stride, params.dv_len_stride = p.dv.len_stride,
  params.dv_head_stride = p.dv.head_stride;
  params.partial_dk = partial;
  params.partial_dv = partial + slots * Shape::kDim;
  params.partial_rows = plan.partial_rows();
  const ConstTensorRef dq_rows{dq, p.heads * p.len_q * Shape::kWidth, Shape::kWidth, p.len_q * Shape::kWidth};
  for (const bool partial : {true, false}) {
    params.partial = partial;
    for (const LaunchLanes& lanes : partial ? plan.partial() : plan.base()) {
      params.ticket = ticket++;
      launch_levels<Shape>(p, lanes, params, dq_rows, scratch.stream());
    }
  }
  if (rows == 0) return;
  const auto narrow = [&]<class Result>() {
    narrow_queries<Result, Shape::kWidth, Shape::kDirectQueries>(p, dq, params.result_scale, scratch.stream());
  };
  if constexpr (Calls::kFloat32Results) {
    if (p.float32_results) return narrow.template operator()<float>();
  }
  narrow.template operator()<Element>();
}

}  // namespace longstride::engine::cuda::sm90
