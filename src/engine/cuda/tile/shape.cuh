// What the kernels of sm80/ and of gates.cu are built of: tile shapes by dtype and dim, products of two tiles in shared
// memory, and how rows of a tensor get there.
#pragma once

#include <cute/tensor.hpp>
#include <type_traits>

#include "engine/cuda/exponential.cuh"
#include "engine/cuda/tile/values.h"

namespace longstride::engine::cuda {

template <class Element>
struct Atom;
template <>
struct Atom<cute::bfloat16_t> {
  using Mma = decltype(cute::make_tiled_mma(cute::SM80_16x8x16_F32BF16BF16F32_TN{},
                                            cute::Layout<cute::Shape<cute::_4, cute::_2, cute::_1>>{}));
};
template <>
struct Atom<cute::half_t> {
  using Mma = decltype(cute::make_tiled_mma(cute::SM80_16x8x16_F32F16F16F32_TN{},
                                            cute::Layout<cute::Shape<cute::_4, cute::_2, cute::_1>>{}));
};
template <>
struct Atom<float> {
  using Mma = decltype(cute::make_tiled_mma(cute::UniversalFMA<float, float, float, float>{},
                                            cute::Layout<cute::Shape<cute::_16, cute::_16, cute::_1>>{}));
};

template <class Element_, int kDim_>
struct Shape {
  using Element = Element_;
  using Mma = typename Atom<Element>::Mma;
  static constexpr int kDim = kDim_;
  static constexpr int kThreads = 256;
  // Blocks on a multiprocessor: where shared memory takes two, the registers must.
  static constexpr int kForwardBlocks = sizeof(Element) == 2 && kDim <= 128 ? 2 : 1;
  static constexpr int kGradientBlocks = sizeof(Element) == 2 && kDim <= 64 ? 2 : 1;
  static constexpr int kRows = tile_rows(sizeof(Element), kDim);
  static constexpr int kColumns = tile_columns(sizeof(Element));
  static constexpr int kPiece = 16 / sizeof(Element);
  static constexpr int kPitch = kDim + kPiece;           // of tensor rows in shared memory: 16 bytes keep banks apart
  static constexpr int kScorePitch = kColumns + kPiece;  // of P and dS
};

// An element of a result: as `Element`, or as float32 if the problem asks for it. `at`: within its head.
template <class Element>
__device__ __forceinline__ void store_element(const Values& p, const Output& to, int64_t batch, int64_t head,
                                              int64_t at, float value) {
  if (p.float32_results) {
    to.head<float>(batch, head)[at] = value;
  } else {
    to.head<Element>(batch, head)[at] = Element(value);
  }
}

// A tile in shared memory: kN rows of kWidth, or its transpose.
template <int kN, int kWidth, int kPitch, class T>
__device__ __forceinline__ auto matrix(T* first) {
  using namespace cute;
  return make_tensor(make_smem_ptr(first), make_layout(cute::Shape<Int<kN>, Int<kWidth>>{}, Stride<Int<kPitch>, _1>{}));
}
template <int kN, int kWidth, int kPitch, class T>
__device__ __forceinline__ auto transposed(T* first) {
  using namespace cute;
  return make_tensor(make_smem_ptr(first), make_layout(cute::Shape<Int<kWidth>, Int<kN>>{}, Stride<_1, Int<kPitch>>{}));
}

template <class Shape, int kM, int kN>
__device__ __forceinline__ auto accumulator() {
  typename Shape::Mma mma;
  auto c = cute::partition_fragment_C(mma, cute::Shape<cute::Int<kM>, cute::Int<kN>>{});
  cute::clear(c);
  return c;
}

// (row, column) of the elements of an accumulator.
template <class Shape, int kM, int kN>
__device__ __forceinline__ auto places() {
  typename Shape::Mma mma;
  return mma.get_slice(threadIdx.x)
      .partition_C(cute::make_identity_tensor(cute::Shape<cute::Int<kM>, cute::Int<kN>>{}));
}

// c += a * b^T for a [M, K] and b [N, K] in shared memory.
template <class Shape, class A, class B, class C>
__device__ __forceinline__ void multiply(const A& a, const B& b, C& c) {
  using namespace cute;
  typename Shape::Mma mma;
  auto mine = mma.get_slice(threadIdx.x);
  Tensor from_a = mine.partition_A(a);
  Tensor from_b = mine.partition_B(b);
  Tensor ra = make_fragment_like<typename Shape::Element>(from_a(_, _, 0));
  Tensor rb = make_fragment_like<typename Shape::Element>(from_b(_, _, 0));
#pragma unroll 4
  for (int k = 0; k < size<2>(from_a); ++k) {
    copy(from_a(_, _, k), ra);
    copy(from_b(_, _, k), rb);
    gemm(mma, ra, rb, c);
  }
}

// Rows position + i * stride, first <= i < end, of one head to rows i of `to`; the other rows below kN and the columns
// beyond dim become zero, so that nothing that no pair reads enters a product. Followed by arrived().
template <class Shape, int kN>
__device__ __forceinline__ void load_rows(const typename Shape::Element* head, const Input& t, int64_t position,
                                          int64_t stride, int first, int end, int dim, typename Shape::Element* to) {
  using Element = typename Shape::Element;
  constexpr int kPieces = Shape::kDim / Shape::kPiece;
  if (t.wide) {
    for (int n = threadIdx.x; n < kN * kPieces; n += Shape::kThreads) {
      const int i = n / kPieces, x = n % kPieces * Shape::kPiece;
      const bool valid = i >= first && i < end && x < dim;
      const Element* from = valid ? head + (position + i * stride) * t.len_stride + x : head;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                       cute::cast_smem_ptr_to_uint(to + i * Shape::kPitch + x)),
                   "l"(from), "r"(valid ? 16 : 0)
                   : "memory");
    }
  } else {
    for (int n = threadIdx.x; n < kN * Shape::kDim; n += Shape::kThreads) {
      const int i = n / Shape::kDim, x = n % Shape::kDim;
      const bool valid = i >= first && i < end && x < dim;
      to[i * Shape::kPitch + x] = valid ? head[(position + i * stride) * t.len_stride + x] : Element(0.f);
    }
  }
}

// All that was loaded is there for all threads.
__device__ __forceinline__ void arrived() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
}

// Column i and row j of a block are a pair.
__device__ __forceinline__ bool pair(const ColumnBlock& b, int row, int column) {
  if (column >= b.columns || row < (b.rows & 0xffff) || row >= b.rows >> 16) return false;
  return column >= row + b.diagonals.begin() && column < row + b.diagonals.end();
}

// The columns [begin, end) of a block that some of its rows sees.
__device__ __forceinline__ int2 seen_columns(const ColumnBlock& b) {
  return make_int2(max(0, (b.rows & 0xffff) + b.diagonals.begin()),
                   min(b.columns, (b.rows >> 16) - 1 + b.diagonals.end()));
}

__device__ __forceinline__ float weight_log2(const ColumnBlock& b) {
  return b.weight == 1 ? 0.f : log2f(float(b.weight));
}

}  // namespace longstride::engine::cuda
