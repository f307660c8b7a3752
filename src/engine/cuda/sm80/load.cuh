// How rows of tensors come to shared memory, as they are or as parts: those of a tile once, those of a block of columns
// while another one is used. What is stored for rows and columns that no pair reads is zero, so that it enters no
// product.
#pragma once

#include <bit>

#include "engine/cuda/sm80/fragment.cuh"

namespace longstride::engine::cuda::sm80 {

// A block of columns as it came, to be spread in parts.
template <int kN, int kDim>
struct Staged {
  static constexpr int kPitch = kDim;
  alignas(16) float value[kN * kDim];
};

template <int kN, int kDim>
__device__ __forceinline__ float* first_of(Staged<kN, kDim>& s) {
  return s.value;
}
template <int kN, int kDim>
__device__ __forceinline__ uint16_t* first_of(Planes<1, kN, kDim>& s) {
  return s.part[0];
}

// A thread's piece of 16 bytes in every kAtOnce-th row.
template <class Shape>
struct Pieces {
  static constexpr int kElements = 16 / sizeof(typename Shape::Element);
  static constexpr int kAcross = std::bit_ceil(unsigned(Shape::kDim / kElements));
  static constexpr int kAtOnce = Shape::kThreads / kAcross;
  const int row = threadIdx.x / kAcross, x = threadIdx.x % kAcross * kElements;
};

__device__ __forceinline__ void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Rows position + i * stride, first <= i < end, of one head: what a thread brings of them. begin() has them begin to
// come, and the others become zero. What a thread has brought it may read after await_copies(), what others brought
// after a barrier too.
template <class Shape, int kN, int kPitch>
struct RowCopy {
  using Element = typename Shape::Element;
  static_assert(kN % Pieces<Shape>::kAtOnce == 0);
  const Pieces<Shape> piece;
  const Element* from;
  int64_t step;
  int first, count, dim;
  bool wide;

  __device__ __forceinline__ RowCopy(const Element* head, const Input& t, int64_t position, int64_t stride, int begin,
                                     int end, int dim)
      : from(head + (position + piece.row * stride) * t.len_stride + piece.x),
        step(piece.kAtOnce * stride * t.len_stride),
        first(begin - piece.row),
        count(piece.x < dim ? max(end - begin, 0) : 0),
        dim(dim),
        wide(t.wide) {}
  // All rows are read, the first one of this thread at `from`.
  __device__ __forceinline__ RowCopy(const Element* from, const Input& t, int64_t stride, int dim)
      : from(from),
        step(piece.kAtOnce * stride * t.len_stride),
        first(-piece.row),
        count(piece.x < dim ? kN : 0),
        dim(dim),
        wide(t.wide) {}

  __device__ __forceinline__ void begin(Element* to) const {
    if (piece.x >= Shape::kDim) return;
    const Element* row = from;
    to += piece.row * kPitch + piece.x;
    if (wide) {
      const uint32_t at = cute::cast_smem_ptr_to_uint(to);
#pragma unroll
      for (int i = 0; i < kN; i += piece.kAtOnce) {
        // Of 0 bytes none is read, wherever they are.
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at + i * kPitch * int(sizeof(Element))),
                     "l"(row), "r"(unsigned(i - first) < unsigned(count) ? 16 : 0)
                     : "memory");
        row += step;
      }
      return;
    }
#pragma unroll 1
    for (int i = 0; i < kN; i += piece.kAtOnce) {
#pragma unroll
      for (int j = 0; j < piece.kElements; ++j)
        to[i * kPitch + j] = unsigned(i - first) < unsigned(count) && piece.x + j < dim ? row[j] : Element(0.f);
      row += step;
    }
  }
};

// The same of rows that are all read and begin at multiples of 16 bytes, this thread's first one at `from`. Returns
// where the rows after them are.
template <class Shape, int kN, int kPitch>
__device__ __forceinline__ auto stage_whole(const typename Shape::Element* from, int64_t step, int dim,
                                            typename Shape::Element* to) {
  const Pieces<Shape> piece;
  if (piece.x >= Shape::kDim) return from;
  const uint32_t at = cute::cast_smem_ptr_to_uint(to + piece.row * kPitch + piece.x);
  const int bytes = piece.x < dim ? 16 : 0;
#pragma unroll
  for (int i = 0; i < kN; i += piece.kAtOnce) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at + i * kPitch * int(sizeof(*to))), "l"(from),
                 "r"(bytes)
                 : "memory");
    from += step;
  }
  return from;
}

template <class Shape, int kN, int kPitch>
__device__ __forceinline__ void stage_rows(const typename Shape::Element* head, const Input& t, int64_t position,
                                           int64_t stride, int first, int end, int dim, typename Shape::Element* to) {
  RowCopy<Shape, kN, kPitch>(head, t, position, stride, first, end, dim).begin(to);
}

// The columns of a block that some row sees, into Planes of one part or Staged.
template <class Shape, class To>
__device__ __forceinline__ void stage_columns(const typename Shape::Element* head, const Input& t, int64_t position,
                                              int64_t stride, const ColumnBlock& b, int dim, To& to) {
  const int2 seen = seen_columns(b);
  stage_rows<Shape, Shape::kColumns, To::kPitch>(head, t, position, stride, seen.x, seen.y, dim,
                                                 reinterpret_cast<typename Shape::Element*>(first_of(to)));
}

// What this thread staged, split, for all warps.
template <class Shape>
__device__ __forceinline__ void spread_columns(const Staged<Shape::kColumns, Shape::kDim>& from,
                                               Planes<3, Shape::kColumns, Shape::kDim>& to) {
  const Pieces<Shape> piece;
  if (piece.x >= Shape::kDim) return;
#pragma unroll
  for (int i = piece.row; i < Shape::kColumns; i += piece.kAtOnce) {
    const float4 four = *reinterpret_cast<const float4*>(from.value + i * Shape::kDim + piece.x);
    uint2 part[3];
    split<float>(four.x, four.y, [&](int j) -> uint32_t& { return part[j].x; });
    split<float>(four.z, four.w, [&](int j) -> uint32_t& { return part[j].y; });
#pragma unroll
    for (int j = 0; j < 3; ++j) *reinterpret_cast<uint2*>(&to.part[j][i * to.kPitch + piece.x]) = part[j];
  }
}

// Two floats of a row, those at or beyond dim zero.
__device__ __forceinline__ float2 pair_at(const float* row, int x, int dim) {
  return make_float2(x < dim ? row[x] : 0.f, x + 1 < dim ? row[x + 1] : 0.f);
}

// Rows of a tile, position + i * stride for i < end. Those of 16 bits are there after await_copies() and a barrier.
template <class Shape>
__device__ __forceinline__ void load_tile(const typename Shape::Element* head, const Input& t, int64_t position,
                                          int64_t stride, int end, int dim, Planes<1, Shape::kRows, Shape::kDim>& to) {
  stage_rows<Shape, Shape::kRows, to.kPitch>(head, t, position, stride, 0, end, dim,
                                             reinterpret_cast<typename Shape::Element*>(first_of(to)));
}
template <class Shape>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, Planes<3, Shape::kRows, Shape::kDim>& to) {
#pragma unroll 4
  for (int n = threadIdx.x; n < Shape::kRows * Shape::kDim / 2; n += Shape::kThreads) {
    const int i = n / (Shape::kDim / 2), x = n % (Shape::kDim / 2) * 2;
    const float2 pair =
        i < end ? pair_at(head + (position + i * stride) * t.len_stride, x, dim) : make_float2(0.f, 0.f);
    split<float>(pair.x, pair.y, [&](int part) -> uint32_t& {
      return *reinterpret_cast<uint32_t*>(&to.part[part][i * to.kPitch + x]);
    });
  }
}
template <class Shape>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, Floats<Shape::kRows, Shape::kDim>& to) {
#pragma unroll 4
  for (int n = threadIdx.x; n < Shape::kRows * Shape::kDim / 2; n += Shape::kThreads) {
    const int i = n / (Shape::kDim / 2), x = n % (Shape::kDim / 2) * 2;
    *reinterpret_cast<float2*>(&to.value[i * to.kPitch + x]) =
        i < end ? pair_at(head + (position + i * stride) * t.len_stride, x, dim) : make_float2(0.f, 0.f);
  }
}
// As fragments, times sign.
template <class Shape, int kCount>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, float sign, RowFragment<3> (&to)[kCount]) {
#pragma unroll
  for (int n = 0; n < 4 * kCount; ++n) {
    const int k = n / 4, i = n % 4, at = row_of_thread<Shape>(i % 2);
    if (i == 0) __syncwarp();  // or all loads are begun at once, for which there are no registers
    const float2 pair = at < end ? pair_at(head + (position + at * stride) * t.len_stride,
                                           16 * k + i / 2 * 8 + int(threadIdx.x) % 4 * 2, dim)
                                 : make_float2(0.f, 0.f);
    split<float>(sign * pair.x, sign * pair.y, to[k], i);
  }
}

}  // namespace longstride::engine::cuda::sm80
