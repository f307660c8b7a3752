// Launches the kernel of gradient.cuh for dQ, dK and dV in turn. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/device.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/sm90/backward_rows.cuh"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/gradient.cuh"
#include "engine/cuda/sm90/gradient_params.h"
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
  allow_shared_bytes<gradient_kernel<Shape>>(kBytes, "shared memory of the gradient kernel");
  const int blocks = static_cast<int>(std::min<int64_t>(multiprocessors(), lanes.items));
  gradient_kernel<Shape><<<blocks, Shape::kThreads, kBytes, stream>>>(params, maps);
  check(cudaGetLastError(), "launch of the gradient kernel");
}

template <class Shape>
void launch_gradient(const BackwardProblem& p, const DevicePlan& plan, const float2* rows, const int32_t* exact,
                     const TensorRef& result, double result_scale, Scratch& scratch) {
  constexpr bool kQueries = Shape::kRowsAreQueries;
  GradientParams params = gradient_params(p, plan);
  params.len_rows = kQueries ? params.len_q : params.len_k;
  params.row_heads = static_cast<int32_t>(kQueries ? p.heads : p.kv_heads);
  params.rows = rows;
  params.exact = exact;
  params.result = gradient_result(result, result_scale);
  params.result.partial = scratch.take<float>(p.batch * params.row_heads * plan.partial_rows() * Shape::kDim);
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
