// What launches of kernels of tiles have in common: the values that they are given. Included by the files that launch.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <type_traits>

#include "core/half.h"
#include "engine/contract.h"
#include "engine/cuda/score_scale.h"
#include "engine/cuda/scratch.h"
#include "engine/cuda/tile/differentiate.cuh"

namespace longstride::engine::cuda {

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

template <class Ref>
auto tensor(const Ref& t, int64_t dim, int64_t element_bytes) {
  const int64_t piece = 16 / element_bytes;
  const bool wide = dim % piece == 0 && t.batch_stride % piece == 0 && t.len_stride % piece == 0 &&
                    t.head_stride % piece == 0 && reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  return Strided<std::remove_pointer_t<decltype(t.data)>>{t.data, t.batch_stride, t.len_stride, t.head_stride, wide};
}

// What all launches of a problem share.
template <class Element>
Values values(const Problem& p) {
  Values v;
  v.query_start = static_cast<int32_t>(p.query_start - p.plan_tokens);
  v.plan_tokens = static_cast<int32_t>(p.plan_tokens);
  v.len_q = static_cast<int32_t>(p.len_q);
  v.heads = static_cast<int32_t>(p.heads);
  v.kv_heads = static_cast<int32_t>(p.kv_heads);
  v.dim = static_cast<int32_t>(p.dim);
  v.group = static_cast<int32_t>(p.heads / p.kv_heads);
  const ScoreFactors factors = score_factors(p);
  v.scale = factors.scale;
  v.scale_log2 = std::abs(factors.log2);
  v.result_scale = static_cast<float>(p.scale);
  v.out_scale = static_cast<float>(p.out_scale);
  v.float32_results = p.float32_results;
  static_cast<CallValues&>(v) = call_values(p);
  v.q = tensor(p.q, p.dim, sizeof(Element));
  v.k = tensor(p.k, p.dim, sizeof(Element));
  v.v = tensor(p.v, p.dim, sizeof(Element));
  return v;
}

// The same for a backward, its rows made ready.
template <class Element>
Values values(const BackwardProblem& p, Scratch& scratch) {
  Values v = values<Element>(p);
  v.d_out = tensor(p.d_out, p.dim, sizeof(Element));
  const int64_t rows = p.batch * p.heads * p.len_q;
  auto* prepared = scratch.take<float2>(rows);
  auto* exact = scratch.take<int32_t>(1);
  v.rows = prepared;
  v.exact = exact;
  check(cudaMemsetAsync(exact, 0, sizeof(*exact), scratch.stream()), "clearing a flag");
  if (rows > 0) {
    const int64_t blocks = (rows + kPreparedRows - 1) / kPreparedRows;
    prepare_rows_kernel<Element><<<static_cast<unsigned>(blocks), kPreparedThreads, 0, scratch.stream()>>>(
        v, tensor(p.out, p.dim, sizeof(Element)), static_cast<const float*>(p.lse), static_cast<const float*>(p.d_lse),
        rows, prepared, exact);
    check(cudaGetLastError(), "launch of prepare_rows");
  }
  return v;
}

}  // namespace longstride::engine::cuda
