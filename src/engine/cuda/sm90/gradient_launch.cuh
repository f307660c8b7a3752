// Launches the kernel of gradient.cuh for dQ, dK and dV in turn. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/device.h"
#include "engine/cuda/score_scale.h"
#include "engine/cuda/sm90/backward_rows.cuh"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/gradient.cuh"
#include "engine/cuda/sm90/launches.h"

namespace longstride::engine::cuda::sm90 {

template <class Shape>
void launch_gradient_levels(const BackwardProblem& p, const LaunchLanes& lanes, GradientParams params,
                            cudaStream_t stream) {
  GradientMapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const int64_t stride = lanes.strides[i];
    const auto queries = [&](const ConstTensorRef& t, int rows) {
      return make_maps(t, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, rows, Shape::kBox);
    };
    const auto keys = [&](const ConstTensorRef& t, int rows) {
      return make_maps(t, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, rows, Shape::kBox);
    };
    GradientMaps& m = maps.of_stride[i];
    if constexpr (Shape::kRowsAreQueries) {
      m = {queries(p.q, Shape::kRows), queries(p.d_out, Shape::kRows), keys(p.k, Shape::kColumns),
           keys(p.v, Shape::kColumns)};
    } else {
      m = {keys(p.k, Shape::kRows), keys(p.v, Shape::kRows), queries(p.q, Shape::kColumns),
           queries(p.d_out, Shape::kColumns)};
    }
  }
  params.lanes = lanes.lanes;
  params.lane_count = lanes.count;
  params.items = lanes.items;
  constexpr int kBytes = sizeof(GradientStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  auto* kernel = gradient_kernel<Shape>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory of the gradient kernel");
  const int blocks = static_cast<int>(std::min<int64_t>(multiprocessors(), lanes.items));
  kernel<<<blocks, Shape::kThreads, kBytes, stream>>>(params, maps);
  check(cudaGetLastError(), "launch of the gradient kernel");
}

template <class Shape>
void launch_gradient(const BackwardProblem& p, const DevicePlan& plan, const float2* rows, const int32_t* exact,
                     const TensorRef& result, double result_scale, Scratch& scratch) {
  GradientParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start);
  params.len_q = static_cast<int32_t>(p.len_q);
  params.len_k = static_cast<int32_t>(p.len_k);
  params.len_rows = Shape::kRowsAreQueries ? params.len_q : params.len_k;
  params.heads = static_cast<int32_t>(p.heads);
  params.row_heads = static_cast<int32_t>(Shape::kRowsAreQueries ? p.heads : p.kv_heads);
  params.dim = static_cast<int32_t>(p.dim);
  const ScoreFactors factors = score_factors(p);
  params.scale = factors.scale;
  params.scale_log2 = factors.log2;
  static_cast<CallValues&>(params) = call_values(p);
  params.gain = static_cast<float>(p.out_scale) * params.dropout.gain;
  params.result_scale = static_cast<float>(result_scale);
  params.rows = rows;
  params.exact = exact;
  params.float32_results = p.float32_results;
  params.result = result.data;
  params.batch_stride = result.batch_stride;
  params.len_stride = result.len_stride;
  params.head_stride = result.head_stride;
  params.partial_rows = plan.partial_rows();
  params.partial_result = scratch.take<float>(p.batch * params.row_heads * plan.partial_rows() * Shape::kDim);
  auto* ticket = scratch.take<unsigned long long>(plan.launches());
  check(cudaMemsetAsync(ticket, 0, plan.launches() * sizeof(*ticket), scratch.stream()), "tickets");
  for (const bool partial : {true, false}) {
    params.partial = partial;
    for (const LaunchLanes& lanes : partial ? plan.partial() : plan.base()) {
      params.ticket = ticket++;
      launch_gradient_levels<Shape>(p, lanes, params, scratch.stream());
    }
  }
}

template <class Tag, int kDim, class Calls>
void launch_gradients(const BackwardProblem& p, const BackwardPlans& plans, Scratch& scratch) {
  using Element = ElementOf<Tag>;
  auto* rows = scratch.take<float2>(p.batch * p.heads * p.len_q);
  auto* exact = scratch.take<int32_t>(1);
  check(cudaMemsetAsync(exact, 0, sizeof(*exact), scratch.stream()), "note of large scores");
  if (p.batch * p.len_q > 0) prepare_rows<Element, kDim>(p, rows, nullptr, exact, scratch.stream());
  launch_gradient<GradientShape<Element, kDim, Calls, QueryGradient>>(p, *plans.forward, rows, exact, p.dq, p.scale,
                                                                      scratch);
  launch_gradient<GradientShape<Element, kDim, Calls, KeyGradient>>(p, plans.transposed, rows, exact, p.dk, p.scale,
                                                                    scratch);
  launch_gradient<GradientShape<Element, kDim, Calls, ValueGradient>>(p, plans.transposed, rows, exact, p.dv,
                                                                      p.out_scale / (1 - p.dropout_p), scratch);
}

}  // namespace longstride::engine::cuda::sm90
