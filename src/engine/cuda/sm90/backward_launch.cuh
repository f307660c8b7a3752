// Launches the backward: rows prepared (lse, delta), the kernel over partial and base levels of the transposed plan, dQ
// narrowed. Included by the files that instantiate it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "engine/cuda/sm90/backward.cuh"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/launches.h"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {

struct Rows {
  const void* data;
  int64_t batch_stride, len_stride, head_stride;
  Rows(const ConstTensorRef& t)
      : data(t.data), batch_stride(t.batch_stride), len_stride(t.len_stride), head_stride(t.head_stride) {}
  Rows(const TensorRef& t)
      : data(t.data), batch_stride(t.batch_stride), len_stride(t.len_stride), head_stride(t.head_stride) {}
  template <class Element>
  __device__ const Element* row(int64_t b, int64_t i, int64_t h) const {
    return static_cast<const Element*>(data) + b * batch_stride + i * len_stride + h * head_stride;
  }
};

// One warp a row: (lse in log2 units, +inf where nothing is seen so that exp2(score - lse) = 0; dO . O - d_lse).
template <class Element>
__global__ void prepare_rows(Rows out, Rows d_out, const float* lse, const float* d_lse, int64_t rows, int64_t heads,
                             int64_t len, int dim, float2* to) {
  const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (row >= rows) return;
  const int64_t i = row % len, h = row / len % heads, b = row / len / heads;
  const Element* o = out.row<Element>(b, i, h);
  const Element* d = d_out.row<Element>(b, i, h);
  float sum = 0;
  for (int x = threadIdx.x % 32; x < dim; x += 32) sum += float(o[x]) * float(d[x]);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) {
    const float l = lse[row];
    to[row] = make_float2(l == -INFINITY ? INFINITY : l * 1.44269504088896340f, sum - (d_lse ? d_lse[row] : 0.f));
  }
}

template <class Element>
__global__ void narrow_queries(const float* from, int width, Rows to, int64_t rows, int64_t heads, int64_t len, int dim,
                               float scale) {
  const int64_t pairs = (dim + 1) / 2;
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * pairs) return;
  const int64_t row = index / pairs, x = index % pairs * 2;
  const int64_t i = row % len, h = row / len % heads, b = row / len / heads;
  const float2 value = *reinterpret_cast<const float2*>(from + row * width + x);
  Element* at = const_cast<Element*>(to.row<Element>(b, i, h)) + x;
  at[0] = static_cast<Element>(value.x * scale);
  if (x + 1 < dim) at[1] = static_cast<Element>(value.y * scale);
}

template <class Shape>
void launch_levels(const Problem& p, const Gradients& g, const DevicePlan& plan, const LaunchLanes& lanes,
            BackwardParams params, const ConstTensorRef& dq, cudaStream_t stream) {
  if (lanes.items == 0) return;
  BackwardMapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const int64_t stride = lanes.strides[i];
    BackwardMaps& m = maps.of_stride[i];
    m.q = make_maps(p.q, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    m.d_out = make_maps(g.d_out, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    m.k = make_maps(p.k, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kRows, Shape::kBox);
    m.v = make_maps(p.v, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kRows, Shape::kBox);
    m.dq = make_maps(dq, core::DType::kFloat32, p.batch, p.len_q, p.heads, Shape::kWidth, stride, 64, Shape::kSliceBox);
  }
  params.lanes = lanes.lanes;
  params.lane_count = lanes.count;
  params.items = lanes.items;
  constexpr int kBytes = sizeof(BackwardStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  auto* kernel = backward_kernel<Shape>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory of the backward kernel");
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device");
  const int blocks = static_cast<int>(std::min<int64_t>(processors, lanes.items));
  kernel<<<blocks, Shape::kThreads, kBytes, stream>>>(params, maps);
  check(cudaGetLastError(), "launch of the backward kernel");
}

template <class Tag, int kDim, class Dropout>
void launch_backward(const Problem& p, const Gradients& g, const DevicePlan& plan, Scratch& scratch,
                     cudaStream_t stream) {
  using Element = ElementOf<Tag>;
  using Shape = BackwardShape<Element, kDim, Dropout>;
  const int64_t rows = p.batch * p.heads * p.len_q;
  const int64_t slots = p.batch * p.kv_heads * plan.partial_rows();
  auto* tickets = scratch.take<unsigned long long>(2);
  auto* dq = scratch.take<float>(rows * Shape::kWidth);
  auto* prepared = scratch.take<float2>(rows);
  auto* partial = scratch.take<float>(2 * slots * Shape::kDim);
  check(cudaMemsetAsync(tickets, 0, 2 * sizeof(*tickets), stream), "tickets");
  if (rows > 0) {
    check(cudaMemsetAsync(dq, 0, rows * Shape::kWidth * sizeof(float), stream), "clearing dq");
  prepare_rows<Element><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
      p.out, g.d_out, static_cast<const float*>(p.lse), static_cast<const float*>(g.d_lse), rows, p.heads, p.len_q,
      static_cast<int>(p.dim), prepared);
  check(cudaGetLastError(), "launch of prepare_rows");
  }
  BackwardParams params;
  params.plan = plan.arrays();
  params.group = static_cast<int32_t>(p.heads / p.kv_heads);
  params.query_start = static_cast<int32_t>(p.query_start);
  params.len_q = static_cast<int32_t>(p.len_q);
  params.len_k = static_cast<int32_t>(p.len_k);
  params.heads = static_cast<int32_t>(p.heads);
  params.kv_heads = static_cast<int32_t>(p.kv_heads);
  params.dim = static_cast<int32_t>(p.dim);
  params.scale_log2 = static_cast<float>(p.scale * 1.4426950408889634);
  params.scale = static_cast<float>(p.scale);
  params.out_scale = static_cast<float>(p.out_scale);
  params.dropout = dropout_values(p);
  params.rows = prepared;
  params.dk = g.dk.data;
  params.dv = g.dv.data;
  params.dk_batch_stride = g.dk.batch_stride, params.dk_len_stride = g.dk.len_stride,
  params.dk_head_stride = g.dk.head_stride;
  params.dv_batch_stride = g.dv.batch_stride, params.dv_len_stride = g.dv.len_stride,
  params.dv_head_stride = g.dv.head_stride;
  params.partial_dk = partial;
  params.partial_dv = partial + slots * Shape::kDim;
  params.partial_rows = plan.partial_rows();
  const ConstTensorRef dq_rows{dq, p.heads * p.len_q * Shape::kWidth, Shape::kWidth, p.len_q * Shape::kWidth};
  params.partial = 1;
  params.ticket = tickets;
  launch_levels<Shape>(p, g, plan, plan.partial(), params, dq_rows, stream);
  params.partial = 0;
  params.ticket = tickets + 1;
  launch_levels<Shape>(p, g, plan, plan.base(), params, dq_rows, stream);
  if (rows == 0) return;
  const int64_t pairs = rows * ((p.dim + 1) / 2);
  narrow_queries<Element><<<static_cast<unsigned>((pairs + 255) / 256), 256, 0, stream>>>(
      dq, Shape::kWidth, g.dq, rows, p.heads, p.len_q, static_cast<int>(p.dim), params.scale);
  check(cudaGetLastError(), "launch of narrow_queries");
}

}  // namespace longstride::engine::cuda::sm90
