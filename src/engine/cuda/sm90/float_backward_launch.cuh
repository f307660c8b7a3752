// Launches the backward of float32: tensors split into parts, rows prepared (lse, delta), the kernel over partial and
// base levels of the transposed plan, dQ scaled. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/device.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/sm90/backward_rows.cuh"
#include "engine/cuda/sm90/float_backward.cuh"
#include "engine/cuda/sm90/float_parts.h"
#include "engine/cuda/sm90/gradient_params.h"
#include "engine/cuda/sm90/launches.h"

namespace longstride::engine::cuda::sm90 {

template <class Shape>
void launch_levels(const BackwardProblem& parts, const LaunchLanes& lanes, FloatBackwardParams params,
                   cudaStream_t stream) {
  GradientMapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const auto map = [&](const ConstTensorRef& t, int64_t len, int64_t heads, int rows) {
      return make_maps(t, parts.dtype, parts.batch, len, heads, parts.dim, lanes.strides[i], rows, Shape::kBox);
    };
    maps.of_stride[i] = {map(parts.k, parts.len_k, parts.kv_heads, Shape::kRows),
                         map(parts.v, parts.len_k, parts.kv_heads, Shape::kRows),
                         map(parts.q, parts.len_q, parts.heads, Shape::kColumns),
                         map(parts.d_out, parts.len_q, parts.heads, Shape::kColumns)};
  }
  params.lanes = lanes.lanes;
  params.lane_count = lanes.count;
  params.items = lanes.items;
  constexpr int kBytes = sizeof(FloatBackwardStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  allow_shared_bytes<float_backward_kernel<Shape>>(kBytes, "shared memory of the backward kernel");
  const int blocks = static_cast<int>(std::min<int64_t>(multiprocessors(), lanes.items));
  float_backward_kernel<Shape><<<blocks, Shape::kThreads, kBytes, stream>>>(params, maps);
  check(cudaGetLastError(), "launch of the backward kernel");
}

template <int kDim>
void launch_float_backward(const BackwardProblem& p, const BackwardPlans& plans, Scratch& scratch) {
  using Shape = FloatBackwardShape<kDim, Extras>;
  const DevicePlan& plan = plans.transposed;
  const int64_t rows = p.batch * p.heads * p.len_q;
  const int64_t slots = p.batch * p.kv_heads * plan.partial_rows();
  auto [ticket, dq, prepared, partial] = scratch.take_together<unsigned long long, float, float2, float>(
      {size_t(plan.launches() + 1), size_t(rows * Shape::kWidth), size_t(rows), size_t(2 * slots * Shape::kDim)});
  auto* exact = reinterpret_cast<int32_t*>(ticket + plan.launches());  // cleared with them, and not looked at
  check(cudaMemsetAsync(ticket, 0, (plan.launches() + 1) * sizeof(*ticket), scratch.stream()), "tickets");
  if (rows > 0) prepare_rows<float, Shape::kWidth>(p, prepared, dq, exact, scratch.stream());
  FloatBackwardParams params{gradient_params(p, plan), gradient_result(p.dv, p.out_scale / (1 - p.dropout_p)), dq,
                             static_cast<int32_t>(p.batch)};
  params.len_rows = params.len_k;
  params.row_heads = static_cast<int32_t>(p.kv_heads);
  params.rows = prepared;
  params.exact = exact;
  params.result = gradient_result(p.dk, p.scale);
  params.result.partial = partial;
  params.values.partial = partial + slots * Shape::kDim;
  params.float32_results = true;
  BackwardProblem parts = p;  // what the kernel reads
  parts.dtype = core::DType::kBFloat16;
  parts.batch = p.batch * Shape::kParts;
  parts.q = split_floats(p.q, p.batch, p.len_q, p.heads, p.dim, scratch);
  parts.k = split_floats(p.k, p.batch, p.len_k, p.kv_heads, p.dim, scratch);
  parts.v = split_floats(p.v, p.batch, p.len_k, p.kv_heads, p.dim, scratch);
  parts.d_out = split_floats(p.d_out, p.batch, p.len_q, p.heads, p.dim, scratch);
  for (const bool of_partial : {true, false}) {
    params.partial = of_partial;
    for (const LaunchLanes& lanes : of_partial ? plan.partial() : plan.base()) {
      params.ticket = ticket++;
      launch_levels<Shape>(parts, lanes, params, scratch.stream());
    }
  }
  if (rows > 0) narrow_queries<float, Shape::kWidth, true>(p, dq, static_cast<float>(p.scale), scratch.stream());
}

}  // namespace longstride::engine::cuda::sm90
