// How the backward's consumers hand over dS and dQ: dS^T to shared memory for the product with K, dQ to the float32
// buffer, of which narrow_queries (backward_rows.cuh) knows the order of columns.
#pragma once

#include "engine/cuda/sm90/backward_shape.cuh"

namespace longstride::engine::cuda::sm90 {

// Adds one warpgroup's slice of a block's dQ to memory, 16 bytes a thread: of 16 columns, 8 n + 2 c + i lies at
// 4 c + 2 n + i. `position`: of the block's first query in its tensor; `queries`: how many it has.
template <class Shape, class Params, class Item, class Queries>
__device__ __forceinline__ void add_queries_directly(const Params& p, const Item& item, int head, int position,
                                                     int queries, int group, int row0, int column0, const Queries& dq) {
  const int query = row0 % 64;
  const int64_t row = (int64_t(item.batch) * p.heads + head) * p.len_q + position;
  float* to = p.dq + (row + query * item.stride) * Shape::kWidth + group * Shape::kSlice + 2 * column0;
#pragma unroll
  for (int r = 0; r < 2; ++r, to += int64_t(8) * item.stride * Shape::kWidth) {
    if (query + 8 * r >= queries) break;
#pragma unroll
    for (int n = 0; n < Shape::kSlice / 8; n += 2) {
      if (Shape::kDim < Shape::kWidth && group * Shape::kSlice + 8 * n >= Shape::kDim) break;
      asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to + 8 * n),
                   "f"(dq(4 * n + 2 * r)), "f"(dq(4 * n + 2 * r + 1)), "f"(dq(4 * n + 4 + 2 * r)),
                   "f"(dq(4 * n + 4 + 2 * r + 1))
                   : "memory");
    }
  }
}

// Leaves one warpgroup's slice of a block's dQ in shared memory: boxes of 64 rows of 128 bytes, 16-byte pieces permuted
// by the row, the copy engine's swizzle. stmatrix, made for pairs of 16 bits, moves floats as well: column
// 8 n + 2 c + i goes to 8 n + 4 i + c.
template <class Shape, class Queries>
__device__ __forceinline__ void store_queries(const KeyBlockNote& b, int group, const Queries& dq, float* to) {
  constexpr int kRowBytes = Shape::kSliceBox * 4;
  const int lane = threadIdx.x % 32, first = 16 * (threadIdx.x % 128 / 32);
  const int row = first + lane / 16 * 8 + lane % 8;  // lane l gives the address of row l % 8 of block l / 8
  uint32_t from = cute::cast_smem_ptr_to_uint(to) + group * Shape::kSlice * 64 * 4 + row * kRowBytes;
  uint32_t swizzle = (row % 8 ^ lane / 8 % 2) << 4;
  asm volatile("" : "+r"(from), "+r"(swizzle));
  const bool low = first + lane / 4 < b.columns, high = first + lane / 4 + 8 < b.columns;
#pragma unroll
  for (int n = 0; n < Shape::kSlice / 8; ++n) {
    const uint32_t at = from + n / 4 * 64 * kRowBytes + ((n % 4 * 32) ^ swizzle);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(__float_as_uint(low ? dq(4 * n) : 0.f)), "r"(__float_as_uint(low ? dq(4 * n + 1) : 0.f)),
                 "r"(__float_as_uint(high ? dq(4 * n + 2) : 0.f)), "r"(__float_as_uint(high ? dq(4 * n + 3) : 0.f))
                 : "memory");
  }
}

// Adds what store_queries left to the float32 buffer. One thread calls it.
template <class Shape>
__device__ __forceinline__ void add_stored_queries(const MapPair& maps, int len_q, const KeyItemNote& item,
                                                   const KeyBlockNote& b, int group, const float* dq) {
  const CUtensorMap* map = b.residue < len_q % item.stride ? &maps.front : &maps.all;
#pragma unroll
  for (int x = 0; x < Shape::kSlice; x += Shape::kSliceBox) {
    const int column = group * Shape::kSlice + x;
    const uint32_t from = cute::cast_smem_ptr_to_uint(dq + column * 64);
    asm volatile(
        "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
            map),
        "r"(from), "r"(column), "r"(b.residue), "r"(b.row), "r"(b.head), "r"(item.batch)
        : "memory");
  }
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// dS^T to shared memory: keys are its rows of 64 queries, in the 128-byte swizzle that the tensor cores read. Four
// blocks of 8 keys x 8 queries an instruction; lane l gives the address of row l % 8 of block l / 8. The addresses are
// made anew every time (opaque), or the compiler keeps them all in registers.
template <class Shape, class Scores>
__device__ __forceinline__ void store_scores(const Scores& ds, typename Shape::Element* to, int key0) {
  const int lane = threadIdx.x % 32;
  const int key = key0 + 16 * (threadIdx.x % 128 / 32) + lane / 8 % 2 * 8 + lane % 8;
  uint32_t row = cute::cast_smem_ptr_to_uint(to) + key * 128;
  uint32_t swizzle = (lane / 16 ^ lane % 8) << 4;
  asm volatile("" : "+r"(row), "+r"(swizzle));
#pragma unroll
  for (int n = 0; n < Shape::kColumns / 8; n += 2) {
    uint32_t pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const typename Shape::Element pair[2] = {ds[4 * (n + i / 2) + 2 * (i % 2)],
                                               ds[4 * (n + i / 2) + 2 * (i % 2) + 1]};
      pairs[i] = *reinterpret_cast<const uint32_t*>(pair);
    }
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row + (n << 4 ^ swizzle)),
                 "r"(pairs[0]), "r"(pairs[1]), "r"(pairs[2]), "r"(pairs[3])
                 : "memory");
  }
}

// The same of keys that see nothing of the block. A warp writes its own rows, which store_keys_of_warp lends it too.
template <class Shape>
__device__ __forceinline__ void clear_scores(typename Shape::Element* to, int key0) {
  int piece = (key0 + 16 * (threadIdx.x % 128 / 32)) * 8 + threadIdx.x % 32;
  asm volatile("" : "+r"(piece));
  auto* rows = reinterpret_cast<uint4*>(to) + piece;
#pragma unroll
  for (int i = 0; i < 4; ++i) rows[32 * i] = make_uint4(0, 0, 0, 0);
}

}  // namespace longstride::engine::cuda::sm90
