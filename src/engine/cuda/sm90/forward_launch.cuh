// Launches the forward kernel for a problem: partial levels, then base levels. Included by the files that instantiate
// it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "engine/cuda/score_scale.h"
#include "engine/cuda/sm90/float_parts.h"
#include "engine/cuda/sm90/forward_levels.cuh"
#include "engine/cuda/sm90/merge_tiles.h"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {

// What all launches of a problem share.
inline ForwardParams forward_params(const ForwardProblem& p, const DevicePlan& plan) {
  ForwardParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start - p.plan_tokens);
  params.plan_tokens = static_cast<int32_t>(p.plan_tokens);
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

// By the kernel for its tiles.
template <class Tag, int kDim, class Calls>
void launch(const ForwardProblem& p, const LaunchLanes& lanes, const ForwardParams& params, bool early,
            cudaStream_t stream) {
  if (!params.partial && lanes.merges_only) return launch_merges<Tag>(params, kDim, early, stream);
  if constexpr (kHasShortTiles<Tag, kDim, Calls>)
    if (lanes.short_tiles) return launch_short_tiles<Tag, kDim>(p, lanes, params, early, stream);
  launch_levels<ForwardShape<ElementOf<Tag>, kDim, Calls, kPartsOf<Tag>>>(p, lanes, params, early, stream);
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
      launch<Tag, kDim, Calls>(read, lanes, params, early, scratch.stream());
      ++params.ticket;
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
