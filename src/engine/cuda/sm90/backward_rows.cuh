// What surrounds the backward kernel, row by row: lse and delta made ready for it, dQ narrowed after it. Both move
// bytes and do nothing else: a thread has eight elements of a row, so that accesses are 16 bytes wide where addresses
// allow.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/contract.h"
#include "engine/cuda/scratch.h"
#include "engine/cuda/sm90/exponential.cuh"

namespace longstride::engine::cuda::sm90 {

// A tensor that is read (Element is const) or written.
template <class Element>
struct Rows {
  Element* data;
  int64_t batch_stride, len_stride, head_stride;
  template <class Ref>
  explicit Rows(const Ref& t)
      : data(static_cast<Element*>(t.data)),
        batch_stride(t.batch_stride),
        len_stride(t.len_stride),
        head_stride(t.head_stride) {}
  __device__ Element* row(int64_t b, int64_t i, int64_t h) const {
    return data + b * batch_stride + i * len_stride + h * head_stride;
  }
};

// Whether all rows begin at multiples of 16 bytes and hold whole pieces of eight elements.
inline bool rows_are_wide(const ConstTensorRef& t, int64_t dim) {
  return dim % 8 == 0 && t.batch_stride % 8 == 0 && t.len_stride % 8 == 0 && t.head_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
}

// A block has kRowThreads / lanes rows of one head; the grid is (blocks of rows, heads, batch).
constexpr int kRowThreads = 256;

template <class Element>
__device__ __forceinline__ void read_eight(const Element* from, int left, bool wide, float (&to)[8]) {
  if (wide && left >= 8) {
    uint4 bits[sizeof(Element) / 2];
#pragma unroll
    for (int i = 0; i < int(sizeof(Element)) / 2; ++i) bits[i] = reinterpret_cast<const uint4*>(from)[i];
    const Element* x = reinterpret_cast<const Element*>(bits);
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = static_cast<float>(x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = i < left ? static_cast<float>(from[i]) : 0.f;
  }
}

// (lse, +inf where nothing is seen so that exp(score - lse) = 0; dO . O - d_lse). If dq is given, its rows are cleared
// beside it: reading and writing at once moves more bytes a second than one after the other. `exact`, 0 before, becomes
// 1 if some lse is large.
template <class Element, int kWidth>
__global__ void __launch_bounds__(kRowThreads)
    prepare_rows_kernel(Rows<const Element> out, Rows<const Element> d_out, bool wide, const float* lse,
                        const float* d_lse, int64_t batch, int64_t len, int dim, float2* to, float* dq,
                        int32_t* exact) {
  constexpr int kLanes = kWidth / 8;
  const int64_t i = int64_t(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  const int x = threadIdx.x % kLanes * 8;
  for (int64_t b = blockIdx.z; b < batch; b += gridDim.z) {
    float sum = 0;
    if (i < len && x < dim) {
      float o[8], d[8];
      read_eight(out.row(b, i, blockIdx.y) + x, dim - x, wide, o);
      read_eight(d_out.row(b, i, blockIdx.y) + x, dim - x, wide, d);
#pragma unroll
      for (int n = 0; n < 8; ++n) sum = fmaf(o[n], d[n], sum);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (i >= len) continue;
    const int64_t row = (b * gridDim.y + blockIdx.y) * len + i;
    if (dq != nullptr) {
      auto* mine = reinterpret_cast<float4*>(dq + row * kWidth + x);
      mine[0] = mine[1] = make_float4(0.f, 0.f, 0.f, 0.f);
    }
    if (x == 0) {
      const float l = lse[row];
      to[row] = make_float2(l == -INFINITY ? INFINITY : l, sum - (d_lse ? d_lse[row] : 0.f));
      if (fabsf(l) >= kMostBackward && l != -INFINITY) *exact = 1;
    }
  }
}

template <class Element, int kWidth, bool kDirect>
__global__ void __launch_bounds__(kRowThreads) narrow_queries_kernel(const float* from, Rows<Element> to, bool wide,
                                                                     int64_t batch, int64_t len, int dim, float scale) {
  constexpr int kLanes = kWidth / 8;
  const int64_t i = int64_t(blockIdx.x) * (kRowThreads / kLanes) + threadIdx.x / kLanes;
  const int x = threadIdx.x % kLanes * 8;
  if (i >= len || x >= dim) return;
  for (int64_t b = blockIdx.z; b < batch; b += gridDim.z) {
    // Column x of the buffer is where add_queries_directly or store_queries put it.
    const float* row = from + ((b * gridDim.y + blockIdx.y) * len + i) * kWidth;
    float values[8];
    if constexpr (kDirect) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float2 pair = *reinterpret_cast<const float2*>(row + x / 16 * 16 + 4 * c + x % 16 / 4);
        values[2 * c] = pair.x, values[2 * c + 1] = pair.y;
      }
    } else {
      const float4 even = *reinterpret_cast<const float4*>(row + x),
                   odd = *reinterpret_cast<const float4*>(row + x + 4);
      values[0] = even.x, values[2] = even.y, values[4] = even.z, values[6] = even.w;
      values[1] = odd.x, values[3] = odd.y, values[5] = odd.z, values[7] = odd.w;
    }
    alignas(16) Element narrow[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) narrow[n] = static_cast<Element>(values[n] * scale);
    Element* at = to.row(b, i, blockIdx.y) + x;
    if (wide) {
#pragma unroll
      for (int n = 0; n < int(sizeof(Element)) / 2; ++n)
        reinterpret_cast<uint4*>(at)[n] = reinterpret_cast<const uint4*>(narrow)[n];
    } else {
#pragma unroll
      for (int n = 0; n < 8; ++n)
        if (x + n < dim) at[n] = narrow[n];
    }
  }
}

template <int kWidth>
dim3 grid_of_rows(const Problem& p) {
  constexpr int kRows = kRowThreads / (kWidth / 8);
  return dim3(static_cast<unsigned>((p.len_q + kRows - 1) / kRows), static_cast<unsigned>(p.heads),
              static_cast<unsigned>(std::min<int64_t>(p.batch, 65535)));
}

template <class Element, int kWidth>
void prepare_rows(const BackwardProblem& p, float2* to, float* dq, int32_t* exact, cudaStream_t stream) {
  using Input = Rows<const Element>;
  prepare_rows_kernel<Element, kWidth><<<grid_of_rows<kWidth>(p), kRowThreads, 0, stream>>>(
      Input(p.out), Input(p.d_out), rows_are_wide(p.out, p.dim) && rows_are_wide(p.d_out, p.dim),
      static_cast<const float*>(p.lse), static_cast<const float*>(p.d_lse), p.batch, p.len_q, static_cast<int>(p.dim),
      to, dq, exact);
  check(cudaGetLastError(), "launch of prepare_rows");
}

// kDirect: who added to dq, add_queries_directly or store_queries.
template <class Element, int kWidth, bool kDirect>
void narrow_queries(const BackwardProblem& p, const float* dq, float scale, cudaStream_t stream) {
  narrow_queries_kernel<Element, kWidth, kDirect><<<grid_of_rows<kWidth>(p), kRowThreads, 0, stream>>>(
      dq, Rows<Element>(p.dq), rows_are_wide(p.dq, p.dim), p.batch, p.len_q, static_cast<int>(p.dim), scale);
  check(cudaGetLastError(), "launch of narrow_queries");
}

}  // namespace longstride::engine::cuda::sm90
