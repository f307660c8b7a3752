// Launches the forward kernel for a problem: partial levels, then base levels. Included by the files that instantiate
// it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "engine/cuda/device.h"
#include "engine/cuda/score_scale.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/float_parts.h"
#include "engine/cuda/sm90/forward.cuh"
#include "engine/cuda/sm90/launch_after.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/merge_tiles.h"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {

// `early`: it may begin before the launch before it ends (and waits where it reads what that one wrote).
template <class Shape>
void launch_levels(const ForwardProblem& p, const LaunchLanes& lanes, const ForwardParams& params, bool early,
                   cudaStream_t stream) {
  MapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const int64_t stride = lanes.strides[i];
    maps.of_stride[i].q = make_maps(p.q, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kRows, Shape::kBox);
    maps.of_stride[i].k =
        make_maps(p.k, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    maps.of_stride[i].v =
        make_maps(p.v, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kColumns, Shape::kBox);
  }
  constexpr int kBytes = sizeof(ForwardStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  allow_shared_bytes<forward_kernel<Shape>>(kBytes, "shared memory of the forward kernel");
  const int64_t blocks = std::min<int64_t>(multiprocessors(), lanes.items);
  launch_after(early, forward_kernel<Shape>, blocks, Shape::kThreads, kBytes, stream, "launch of the forward kernel",
               params, maps);
}

// What all launches of a problem share.
inline ForwardParams forward_params(const ForwardProblem& p, const DevicePlan& plan) {
  ForwardParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start);
  params.len_q = static_cast<int32_t>(p.len_q);
  params.len_k = static_cast<int32_t>(p.len_k);
  params.batch = static_cast<int32_t>(p.batch);
  params.heads = static_cast<int32_t>(p.heads);
  params.dim = static_cast<int32_t>(p.dim);
  const ScoreFactors factors = score_factors(p);
  params.scale = std::abs(factors.scale);
  params.scale_log2 = std::abs(factors.log2);
  params.negate = factors.scale < 0;
  params.out_scale = static_cast<float>(p.out_scale);
  static_cast<CallValues&>(params) = call_values(p);
  params.float32_results = p.float32_results;
  params.out = p.out.data;
  params.out_batch_stride = p.out.batch_stride;
  params.out_len_stride = p.out.len_stride;
  params.out_head_stride = p.out.head_stride;
  params.lse = static_cast<float*>(p.lse);
  params.partial_rows = plan.partial_rows();
  return params;
}

template <class Tag, int kDim, class Calls>
void launch_forward(const ForwardProblem& p, const DevicePlan& plan, Scratch& scratch) {
  using Shape = ForwardShape<ElementOf<Tag>, kDim, Calls, kPartsOf<Tag>>;
  const int64_t slots = p.batch * p.heads * plan.partial_rows();
  ForwardParams params = forward_params(p, plan);
  ForwardProblem read = p;  // what the kernel reads
  if constexpr (Shape::kParts > 1) {
    params.float_q = p.q;
    params.float_k = p.k;
    params.float32_results = true;
    read.dtype = core::DType::kBFloat16;
    read.batch = p.batch * Shape::kParts;
    read.q = split_floats(p.q, p.batch, p.len_q, p.heads, p.dim, scratch);
    read.k = split_floats(p.k, p.batch, p.len_k, p.kv_heads, p.dim, scratch);
    read.v = split_floats(p.v, p.batch, p.len_k, p.kv_heads, p.dim, scratch);
  }
  int64_t items = 0;
  for (const auto* levels : {&plan.partial(), &plan.base()})
    for (const LaunchLanes& lanes : *levels) items = std::max(items, lanes.items);
  std::tie(params.ticket, params.partial_out, params.partial_softmax, params.again) =
      scratch.take_together<unsigned long long, float, float2, int64_t>(
          {size_t(plan.launches()), size_t(slots * Shape::kDim), size_t(slots), size_t(items)});
  if (items > multiprocessors())  // else no block of the grid takes a second item
    check(cudaMemsetAsync(params.ticket, 0, plan.launches() * sizeof(*params.ticket), scratch.stream()), "tickets");
  for (const bool partial : {true, false}) {
    for (const LaunchLanes& lanes : partial ? plan.partial() : plan.base()) {
      params.lanes = lanes.lanes;
      params.lane_count = lanes.count;
      params.items = lanes.items;
      params.partial = partial;
      const bool early = !partial && &lanes == &plan.base().front() && !plan.partial().empty();
      if (!partial && lanes.merges_only) {
        launch_merges<Tag>(params, kDim, early, scratch.stream());
      } else {
        launch_levels<Shape>(read, lanes, params, early, scratch.stream());
      }
      ++params.ticket;
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
