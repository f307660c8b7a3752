// What the tensor cores are fed with. A number of 16 bits is multiplied as it is, one part. A float is the sum of three
// parts of bfloat16, which hold its 24 bits; of the nine products of two such sums six count (product.cuh).
//
// A warp has 16 rows of a tile, or 16 here and 16 there: their fragments lie in registers or are read from shared
// memory, the block's columns lie there in a plane for each part.
#pragma once

#include <cute/tensor.hpp>
#include <type_traits>

#include "engine/cuda/tile/parts.cuh"
#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

// The shape of a kernel whose warps have rows whole: kWarps warps with kRowTiles times 16 rows each, of which those of
// one time stand side by side; blocks of kColumns columns; kBlocks blocks of the grid on a multiprocessor. With two
// sides there are twice as many warps, and those of a side have every other eight columns of the same rows.
template <class Element_, int kDim_, int kWarps, int kRowTiles_, int kColumns_, int kBlocks_, int kSides_ = 1>
struct RowShape {
  using Element = Element_;
  using Product = std::conditional_t<std::is_same_v<Element, cute::half_t>, cute::SM80_16x8x16_F32F16F16F32_TN,
                                     cute::SM80_16x8x16_F32BF16BF16F32_TN>;
  using Mma = decltype(cute::make_tiled_mma(
      Product{}, cute::Layout<cute::Shape<cute::Int<kWarps>, cute::Int<kSides_>, cute::_1>>{}));
  static constexpr int kParts = std::is_same_v<Element, float> ? 3 : 1;
  static constexpr int kDim = kDim_;
  static constexpr int kSides = kSides_;
  static constexpr int kRowWarps = kWarps;
  static constexpr int kThreads = 32 * kWarps * kSides;
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr int kRows = 16 * kWarps * kRowTiles;
  static constexpr int kColumns = kColumns_;
  static constexpr int kBlocks = kBlocks_;
};

// Of this thread's warp: its place among those with rows of their own, and its side.
template <class Shape>
__device__ __forceinline__ int row_warp() {
  return Shape::kSides == 1 ? threadIdx.x / 32 : threadIdx.x / 32 % Shape::kRowWarps;
}
template <class Shape>
__device__ __forceinline__ int side_of_warp() {
  return Shape::kSides == 1 ? 0 : threadIdx.x / 32 / Shape::kRowWarps;
}

// A thread's rows, two for each of its warp's tiles of 16, and whose element i of an accumulator is.
template <class Shape>
constexpr int kThreadRows = 2 * Shape::kRowTiles;
template <class Shape>
__device__ __forceinline__ int row_of_thread(int i) {
  return (i / 2 * Shape::kRowWarps + row_warp<Shape>()) * 16 + threadIdx.x % 32 / 4 + i % 2 * 8;
}
template <class Shape>
constexpr __device__ int row_of_element(int i) {
  return i % 4 / 2 + i / 4 % Shape::kRowTiles * 2;
}

// 16 rows and 16 of the terms that are summed.
template <int kParts>
struct RowFragment {
  uint32_t part[kParts][4];
};
// 16 of the terms that are summed and two tiles of 8 columns.
template <int kParts>
struct ColumnFragment {
  uint32_t part[kParts][2][2];
};

// A tile of kN rows, as parts.
template <int kParts, int kN, int kDim>
struct Planes {
  static constexpr int kPitch = kDim + 8;  // 16 bytes keep the banks of a matrix's rows apart
  alignas(16) uint16_t part[kParts][kN * kPitch];
};

// The same as floats, to be split by the warp that uses them: where three planes take too much of shared memory.
template <int kN, int kDim>
struct Floats {
  static constexpr int kPitch = kDim + 8;  // four rows' pairs lie in 32 banks
  alignas(16) float value[kN * kPitch];
};

// Two results that lie side by side become pair i of a fragment.
using cuda::split;
template <class Element, int kParts>
__device__ __forceinline__ void split(float x, float y, RowFragment<kParts>& to, int i) {
  split<Element>(x, y, [&](int part) -> uint32_t& { return to.part[part][i]; });
}

__device__ __forceinline__ void read_matrices(const uint16_t* at, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(cute::cast_smem_ptr_to_uint(at)));
}
__device__ __forceinline__ void read_transposed_matrices(const uint16_t* at, uint32_t& a, uint32_t& b, uint32_t& c,
                                                         uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(cute::cast_smem_ptr_to_uint(at)));
}

// Rows of this warp's tile m of 16, terms from x on. Sixteen terms, or columns, of one of kSides sides are eight, and
// eight more that the others' stand before: x is where the first side's begin.
template <class Shape, int kSides = 1, int kParts, int kN, int kWidth>
__device__ __forceinline__ RowFragment<kParts> row_fragment(const Planes<kParts, kN, kWidth>& from, int x, int m,
                                                            int side = 0) {
  const int lane = threadIdx.x % 32, row = (m * Shape::kRowWarps + row_warp<Shape>()) * 16 + lane % 16;
  RowFragment<kParts> a;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_matrices(&from.part[i][row * from.kPitch + x + 8 * side + lane / 16 * 8 * kSides], a.part[i][0], a.part[i][1],
                  a.part[i][2], a.part[i][3]);
  return a;
}
template <class Shape, int kN>
__device__ __forceinline__ RowFragment<3> row_fragment(const Floats<kN, Shape::kDim>& from, int x, int m) {
  RowFragment<3> a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = row_of_thread<Shape>(2 * m + i % 2), at = x + i / 2 * 8 + threadIdx.x % 4 * 2;
    const float2 pair = *reinterpret_cast<const float2*>(&from.value[row * from.kPitch + at]);
    split<float>(pair.x, pair.y, a, i);
  }
  return a;
}
template <class Shape, int kParts, int kCount>
__device__ __forceinline__ RowFragment<kParts> row_fragment(const RowFragment<kParts> (&from)[kCount], int x, int m) {
  return from[x / 16 * Shape::kRowTiles + m];
}

// Columns from n on, terms from x on, of a tile whose rows are the columns.
template <int kSides = 1, int kParts, int kN, int kDim>
__device__ __forceinline__ ColumnFragment<kParts> column_fragment(const Planes<kParts, kN, kDim>& from, int n, int x,
                                                                  int side = 0) {
  const int lane = threadIdx.x % 32;
  ColumnFragment<kParts> b;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_matrices(
        &from.part[i][(n + 8 * side + lane % 8 + lane / 16 * 8 * kSides) * from.kPitch + x + lane / 8 % 2 * 8],
        b.part[i][0][0], b.part[i][0][1], b.part[i][1][0], b.part[i][1][1]);
  return b;
}
// Columns from n on, terms from x on, of a tile whose rows are the terms.
template <int kSides = 1, int kParts, int kN, int kDim>
__device__ __forceinline__ ColumnFragment<kParts> transposed_fragment(const Planes<kParts, kN, kDim>& from, int n,
                                                                      int x, int side = 0, int side_of_terms = 0) {
  const int lane = threadIdx.x % 32;
  ColumnFragment<kParts> b;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_transposed_matrices(
        &from.part[i][(x + 8 * side_of_terms + lane % 8 + lane / 8 % 2 * 8 * kSides) * from.kPitch + n + 8 * side +
                      lane / 16 * 8 * kSides],
        b.part[i][0][0], b.part[i][0][1], b.part[i][1][0], b.part[i][1][1]);
  return b;
}

}  // namespace longstride::engine::cuda::sm80
