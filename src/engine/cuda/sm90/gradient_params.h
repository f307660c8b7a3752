// What the launches of kernels that make gradients of a tile's rows fill in alike.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/score_scale.h"
#include "engine/cuda/sm90/gradient_values.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// But for rows, results and the launch's lanes.
inline GradientParams gradient_params(const BackwardProblem& p, const DevicePlan& plan) {
  GradientParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start);
  params.len_q = static_cast<int32_t>(p.len_q);
  params.len_k = static_cast<int32_t>(p.len_k);
  params.heads = static_cast<int32_t>(p.heads);
  params.dim = static_cast<int32_t>(p.dim);
  const ScoreFactors factors = score_factors(p);
  params.scale = factors.scale;
  params.scale_log2 = factors.log2;
  static_cast<CallValues&>(params) = call_values(p);
  params.gain = static_cast<float>(p.out_scale) * params.dropout.gain;
  params.float32_results = p.float32_results;
  params.partial_rows = plan.partial_rows();
  return params;
}

inline GradientResult gradient_result(const TensorRef& to, double scale) {
  return {to.data, to.batch_stride, to.len_stride, to.head_stride, static_cast<float>(scale), nullptr};
}

}  // namespace longstride::engine::cuda::sm90
