// How the backward's consumers hand over dS and dQ: dS^T to shared memory for the product with K, dQ from there to the
// float32 buffer by the copy engine.
#pragma once

#include "engine/cuda/sm90/backward_shape.cuh"

namespace longstride::engine::cuda::sm90 {

// Adds one warpgroup's slice of a block's dQ, left in shared memory, to the float32 buffer. One thread calls it.
template <class Shape>
__device__ __forceinline__ void add_queries(const MapPair& maps, int len_q, const KeyItemNote& item,
                                            const KeyBlockNote& b, int group, const float* dq) {
  const CUtensorMap* map = b.residue < len_q % item.stride ? &maps.front : &maps.all;
#pragma unroll
  for (int part = 0; part < Shape::kQueryParts; ++part) {
    if (part > 0 && 64 * part >= b.columns) break;
#pragma unroll
    for (int i = 0; i < Shape::kSliceBoxes; ++i) {
      const int box = group * Shape::kSliceBoxes + i;
      const uint32_t from = cute::cast_smem_ptr_to_uint(dq + (part * Shape::kWidth + box * Shape::kSliceBox) * 64);
      asm volatile(
          "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::
              "l"(map),
          "r"(from), "r"(box * Shape::kSliceBox), "r"(b.residue), "r"(b.row + 64 * part), "r"(b.head), "r"(item.batch)
          : "memory");
    }
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

}  // namespace longstride::engine::cuda::sm90
