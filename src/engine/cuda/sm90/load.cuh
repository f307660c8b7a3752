// Strided rows into shared memory by the copy engine, and their tails zeroed. A level's stride is a dimension of the
// tensor map, so the rows of a residue class arrive as one dense, swizzled tile. Used by the producer warps.
#pragma once

#include <cute/tensor.hpp>

#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {

// Rows position, position + stride, ... (`rows` of them; those beyond len arrive as zeros) of one head.
template <int kBox, int kWidth, int kRows, class Barrier, class Element>
__device__ __forceinline__ void load_rows(const MapPair& maps, int len, int stride, int position, int head, int batch,
                                          Barrier& barrier, Element* to) {
  const int row = position / stride;
  const int residue = position - row * stride;
  const CUtensorMap* map = residue < len % stride ? &maps.front : &maps.all;
  const uint32_t bar = cute::cast_smem_ptr_to_uint(&barrier);
#pragma unroll(kWidth / kBox > 3 ? 1 : kWidth / kBox)
  for (int box = 0; box < kWidth / kBox; ++box) {
    const uint32_t at = cute::cast_smem_ptr_to_uint(to + box * kRows * kBox);
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
        "[%2];" ::"r"(at),
        "l"(map), "r"(bar), "r"(box * kBox), "r"(residue), "r"(row), "r"(head), "r"(batch)
        : "memory");
  }
}

// Zeroes rows [first, kRows) of a tile that has arrived: what lies in rows that no pair uses must not spread through
// 0 * NaN. Swizzling permutes the pieces inside a row only, so a whole row is a whole row. All lanes of a warp call it.
template <int kBox, int kWidth, int kRows, class Element>
__device__ __forceinline__ void zero_rows(Element* tile, int first) {
  constexpr int kPieces = kBox * sizeof(Element) / 16;
#pragma unroll 1
  for (int box = 0; box < kWidth / kBox; ++box) {
    auto* pieces = reinterpret_cast<uint4*>(tile + box * kRows * kBox);
#pragma unroll 1
    for (int i = first * kPieces + threadIdx.x % 32; i < kRows * kPieces; i += 32) pieces[i] = make_uint4(0, 0, 0, 0);
  }
}

// The same of every part of a tensor: those lie one behind the other as `batches` batch rows each.
template <class Shape, int kRows, class Barrier, class Element>
__device__ __forceinline__ void load_parts(const MapPair& maps, int len, int stride, int position, int head, int batch,
                                           int batches, Barrier& barrier, Element* to) {
#pragma unroll 1
  for (int part = 0; part < Shape::kParts; ++part)
    load_rows<Shape::kBox, Shape::kWidth, kRows>(maps, len, stride, position, head, batch + part * batches, barrier,
                                                 to + part * kRows * Shape::kWidth);
}
template <class Shape, int kRows, class Element>
__device__ __forceinline__ void zero_parts(Element* tile, int first) {
#pragma unroll 1
  for (int part = 0; part < Shape::kParts; ++part)
    zero_rows<Shape::kBox, Shape::kWidth, kRows>(tile + part * kRows * Shape::kWidth, first);
}

}  // namespace longstride::engine::cuda::sm90
