// Rows of a finished tile, from accumulators to memory. Used by the consumers of every kernel.
#pragma once

#include <cstdint>

namespace longstride::engine::cuda::sm90 {

// Writes row r (0 or 1) of a thread's two as `Element`, times `factor`. Of every eight columns a thread has two, so the
// four threads of a row exchange what they have, and each writes 16 bytes at a time where addresses allow: a fourth of
// the stores, and whole sectors. All lanes of a warp call it; `to` is 4-byte aligned and dim even.
template <class Element, int kDim, class Accumulator>
__device__ __forceinline__ void store_row(Element* to, bool valid, int dim, const Accumulator& x, int r, float factor) {
  const int c = threadIdx.x % 4;
  const bool odd = c & 1, upper = c & 2;
#pragma unroll
  for (int n = 0; n < kDim / 8; n += 4) {
    uint32_t own[4];  // of columns 8 (n + i) + 2 c
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * (n + i < kDim / 8 ? n + i : n) + 2 * r;
      const Element pair[2] = {static_cast<Element>(x[at] * factor), static_cast<Element>(x[at + 1] * factor)};
      own[i] = *reinterpret_cast<const uint32_t*>(pair);
    }
    // A 4 x 4 transpose: lane c is left with the four pairs of columns 8 (n + c).
    uint32_t half[4];
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t other = __shfl_xor_sync(~0u, odd ? own[i] : own[i + 1], 1);
      half[i] = odd ? other : own[i];
      half[i + 1] = odd ? own[i + 1] : other;
    }
    uint32_t all[4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t other = __shfl_xor_sync(~0u, upper ? half[i] : half[2 + i], 2);
      all[i] = upper ? other : half[i];
      all[2 + i] = upper ? half[2 + i] : other;
    }
    const int column = 8 * (n + c);
    if (!valid || column >= dim || column >= kDim) continue;
    if (column + 8 <= dim && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
      *reinterpret_cast<uint4*>(to + column) = make_uint4(all[0], all[1], all[2], all[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (column + 2 * i < dim) *reinterpret_cast<uint32_t*>(to + column + 2 * i) = all[i];
    }
  }
}

// The same in float32, of any dim and alignment: few calls ask for it.
template <int kDim, class Accumulator>
__device__ __forceinline__ void store_float_row(float* to, bool valid, int dim, const Accumulator& x, int r,
                                                float factor) {
  if (!valid) return;
  const int column0 = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (8 * n + column0 + i < dim) to[8 * n + column0 + i] = x[4 * n + 2 * r + i] * factor;
  }
}

// A row of a result: of the shape's element type, or float32 if the problem asks for it. `offset`: of the row, in
// elements.
template <class Shape, class Accumulator>
__device__ __forceinline__ void store_result(void* result, int64_t offset, bool as_float32, bool valid, int dim,
                                             const Accumulator& x, int r, float factor) {
  if (Shape::Calls::kFloat32Results && as_float32) {
    store_float_row<Shape::kDim>(static_cast<float*>(result) + offset, valid, dim, x, r, factor);
  } else {
    using Element = typename Shape::Element;
    store_row<Element, Shape::kDim>(static_cast<Element*>(result) + offset, valid, dim, x, r, factor);
  }
}

}  // namespace longstride::engine::cuda::sm90
