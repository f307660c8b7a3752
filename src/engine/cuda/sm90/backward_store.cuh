// Begins and ends the dK and dV of a tile: partial levels keep float32 slots, base levels begin with them and write the
// results.
#pragma once

#include <cstdint>
#include <cute/tensor.hpp>

#include "engine/cuda/merged_rows.h"
#include "engine/cuda/sm90/backward_values.h"
#include "engine/cuda/sm90/store_row.cuh"

namespace longstride::engine::cuda::sm90 {

// What a tile begins with: nothing, or what partial levels kept for its rows, since merging is adding.
template <class Shape, class Keys>
__device__ __forceinline__ void begin_keys(const BackwardParams& p, const KeyItemNote& item, Keys& dk, Keys& dv,
                                           int row0, int column0) {
  cute::clear(dk);
  cute::clear(dv);
  if constexpr (Shape::kSkips) asm volatile("" : "+r"(row0), "+r"(column0));  // there are no registers for addresses
  const int64_t head = (int64_t(item.batch) * p.kv_heads + item.kv_head) * p.partial_rows;
#pragma unroll 1
  for (int i = 0; i < item.merge_count; ++i) {
    const MergedRows merged(p.plan.merges[item.merge_begin + i], head, item.repeat);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t of_row = row0 + 8 * r < item.rows ? merged.slot(row0 + 8 * r) : -1;
      if (of_row < 0) continue;
      const int64_t slot = of_row * Shape::kDim + column0;
#pragma unroll
      for (int j = 0; j < Shape::kDim / 8; ++j) {
        const float2 a = *reinterpret_cast<const float2*>(p.partial_dk + slot + 8 * j);
        const float2 b = *reinterpret_cast<const float2*>(p.partial_dv + slot + 8 * j);
        dk[4 * j + 2 * r] += a.x, dk[4 * j + 2 * r + 1] += a.y;
        dv[4 * j + 2 * r] += b.x, dv[4 * j + 2 * r + 1] += b.y;
      }
    }
  }
}

// Writes a warp's 16 rows of a result, the first of which is row `first` of the tile, as `Element`, times `factor`.
// They go through 2 KiB of shared memory that no other warp uses, 64 columns at a time, so that a store is whole lines
// of memory. `to`: of the tile's first row, 4-byte aligned; dim is even.
template <class Shape, class Keys>
__device__ __forceinline__ void store_keys_of_warp(typename Shape::Element* to, int64_t row_stride, int first, int rows,
                                                   int dim, const Keys& x, float factor, uint32_t staging) {
  using Element = typename Shape::Element;
  constexpr int kBlocks = 8;  // of 8 columns, in a row of the staging memory
  int lane = threadIdx.x % 32;
  if constexpr (Shape::kSkips) asm volatile("" : "+r"(lane));  // what follows from it is not kept from tile to tile
  const uint32_t in = staging + lane % 16 * 128, in_swizzle = (lane / 16 ^ lane % 8) << 4;
  const int block = lane % kBlocks;
#pragma unroll
  for (int half = 0; half < Shape::kDim / 8; half += kBlocks) {
#pragma unroll
    for (int n = 0; n < kBlocks && half + n < Shape::kDim / 8; n += 2) {
      uint32_t pairs[4];  // of rows 0 to 7 and 8 to 15 of block n, then of the next
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (half + n + i / 2) + 2 * (i % 2);
        const Element pair[2] = {static_cast<Element>(x[at] * factor), static_cast<Element>(x[at + 1] * factor)};
        pairs[i] = *reinterpret_cast<const uint32_t*>(pair);
      }
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(in + (n << 4 ^ in_swizzle)),
                   "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                   : "memory");
    }
    __syncwarp();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int row = 4 * step + lane / kBlocks, column = 8 * (half + block);
      uint4 eight;
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(eight.x), "=r"(eight.y), "=r"(eight.z), "=r"(eight.w)
                   : "r"(staging + row * 128 + ((block ^ row % 8) << 4)));
      if (first + row >= rows || column >= dim || column >= Shape::kDim) continue;
      Element* at = to + (first + row) * row_stride + column;
      if (column + 8 <= dim && reinterpret_cast<uintptr_t>(at) % 16 == 0) {
        *reinterpret_cast<uint4*>(at) = eight;
      } else {
        const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (column + 2 * i < dim) *reinterpret_cast<uint32_t*>(at + 2 * i) = pairs[i];
      }
    }
    __syncwarp();
  }
}

// `staging`: shared memory of this warp, 2 KiB.
template <class Shape, class Keys>
__device__ __forceinline__ void store_keys(const BackwardParams& p, const KeyItemNote& item, const Keys& dk,
                                           const Keys& dv, int row0, int column0, uint32_t staging) {
  if constexpr (Shape::kSkips) asm volatile("" : "+r"(row0), "+r"(column0), "+r"(staging));  // likewise
  const int64_t head = int64_t(item.batch) * p.kv_heads + item.kv_head;
  const float out_scale = p.out_scale * p.dropout.gain;
  if (!p.partial && !(Shape::Calls::kFloat32Results && p.float32_results)) {
    using Element = typename Shape::Element;
    const int first = row0 - threadIdx.x % 32 / 4;
    const int64_t to_dk =
        item.batch * p.dk_batch_stride + item.row0 * p.dk_len_stride + item.kv_head * p.dk_head_stride;
    const int64_t to_dv =
        item.batch * p.dv_batch_stride + item.row0 * p.dv_len_stride + item.kv_head * p.dv_head_stride;
    store_keys_of_warp<Shape>(static_cast<Element*>(p.dk) + to_dk, item.stride * p.dk_len_stride, first, item.rows,
                              p.dim, dk, p.result_scale, staging);
    store_keys_of_warp<Shape>(static_cast<Element*>(p.dv) + to_dv, item.stride * p.dv_len_stride, first, item.rows,
                              p.dim, dv, out_scale, staging);
    return;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const bool valid = row < item.rows;
    if (p.partial) {
      if (!valid) continue;
      const int64_t slot = (head * p.partial_rows + item.slot + row) * Shape::kDim;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n) {
        *reinterpret_cast<float2*>(p.partial_dk + slot + 8 * n + column0) =
            make_float2(dk[4 * n + 2 * r], dk[4 * n + 2 * r + 1]);
        *reinterpret_cast<float2*>(p.partial_dv + slot + 8 * n + column0) =
            make_float2(dv[4 * n + 2 * r], dv[4 * n + 2 * r + 1]);
      }
      continue;
    }
    const int64_t at = item.row0 + row * item.stride;
    const int64_t to_dk = item.batch * p.dk_batch_stride + at * p.dk_len_stride + item.kv_head * p.dk_head_stride;
    const int64_t to_dv = item.batch * p.dv_batch_stride + at * p.dv_len_stride + item.kv_head * p.dv_head_stride;
    if constexpr (Shape::Calls::kFloat32Results) {
      store_float_row<Shape::kDim>(static_cast<float*>(p.dk) + to_dk, valid, p.dim, dk, r, p.result_scale);
      store_float_row<Shape::kDim>(static_cast<float*>(p.dv) + to_dv, valid, p.dim, dv, r, out_scale);
    }
  }
}

}  // namespace longstride::engine::cuda::sm90
