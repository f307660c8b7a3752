// Products of a warp's rows with a block's columns. Numbers of 16 bits are summed by the tensor cores alone. Of two
// sums of three parts six products count, the others being below what float32 holds of the product; the tensor cores
// cut sums off where float32 would round them, so that long sums lean towards zero: few steps follow one another on a
// sum, the small products before or beside the great ones, and such sums are added to each other on the ordinary cores.
#pragma once

#include "engine/cuda/sm80/fragment.cuh"

namespace longstride::engine::cuda::sm80 {

// c(4 n) ... += a . b
template <class Shape, class C>
__device__ __forceinline__ void multiply_tile(const uint32_t (&a)[4], const uint32_t (&b)[2], C& c, int n) {
  Shape::Product::fma(c(4 * n), c(4 * n + 1), c(4 * n + 2), c(4 * n + 3), a[0], a[1], a[2], a[3], b[0], b[1], c(4 * n),
                      c(4 * n + 1), c(4 * n + 2), c(4 * n + 3));
}

// Which part of the rows is multiplied: queries or keys stand there.
enum class Rows { kQueries, kKeys };
template <Rows kRows>
constexpr __device__ int part_of(int product) {
  return kRows == Rows::kQueries ? query_part(product) : key_part(product);
}

template <class Shape, Rows kRows, int kPairs, class C>
__device__ __forceinline__ void multiply_small(const RowFragment<3>& a, const ColumnFragment<3> (&b)[kPairs], C& c) {
  constexpr Rows kOthers = kRows == Rows::kQueries ? Rows::kKeys : Rows::kQueries;
#pragma unroll
  for (int product = 0; product < kSmallProducts; ++product)
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i)
      multiply_tile<Shape>(a.part[part_of<kRows>(product)], b[i / 2].part[part_of<kOthers>(product)][i % 2], c, i);
}
template <class Shape, int kPairs, class C>
__device__ __forceinline__ void multiply_great(const RowFragment<3>& a, const ColumnFragment<3> (&b)[kPairs], C& c) {
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) multiply_tile<Shape>(a.part[0], b[i / 2].part[0][i % 2], c, i);
}

// Products of all rows with all columns of a block, over dim.
template <class Shape, Rows kRows, class From>
__device__ __forceinline__ auto multiply_rows(const From& rows,
                                              const Planes<1, Shape::kColumns, Shape::kDim>& columns) {
  auto c = accumulator<Shape, Shape::kRows, Shape::kColumns>();
#pragma unroll
  for (int x = 0; x < Shape::kDim; x += 16) {
    RowFragment<1> a[Shape::kRowTiles];
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m) a[m] = row_fragment<Shape>(rows, x, m);
#pragma unroll
    for (int n = 0; n < Shape::kColumns / Shape::kSides; n += 16) {
      const ColumnFragment<1> b = column_fragment<Shape::kSides>(columns, n * Shape::kSides, x, side_of_warp<Shape>());
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int m = 0; m < Shape::kRowTiles; ++m)
          multiply_tile<Shape>(a[m].part[0], b.part[0][i], c, m + Shape::kRowTiles * (n / 8 + i));
    }
  }
  return c;
}
// 16 * Shape::kPairs columns at a time.
template <class Shape, Rows kRows, class From>
__device__ __forceinline__ auto multiply_rows(const From& rows,
                                              const Planes<3, Shape::kColumns, Shape::kDim>& columns) {
  constexpr int kUnroll = std::is_same_v<From, Floats<Shape::kRows, Shape::kDim>> ? 2 : Shape::kDim / 16;
  constexpr int kPairs = Shape::kRowPairs;
  auto c = accumulator<Shape, Shape::kRows, Shape::kColumns>();
#pragma unroll
  for (int n = 0; n < Shape::kColumns; n += 16 * kPairs) {
    auto great = accumulator<Shape, Shape::kRows, 16 * kPairs>();
    auto small = accumulator<Shape, Shape::kRows, 16 * kPairs>();
#pragma unroll kUnroll
    for (int x = 0; x < Shape::kDim; x += 16) {
      const RowFragment<3> a = row_fragment<Shape>(rows, x, 0);
      ColumnFragment<3> b[kPairs];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) b[i] = column_fragment(columns, n + 16 * i, x);
      multiply_small<Shape, kRows>(a, b, small);
      multiply_great<Shape>(a, b, great);
    }
#pragma unroll
    for (int i = 0; i < cute::size(great); ++i) c(n / 2 + i) = great(i) + small(i);
  }
  return c;
}

// Scores, or what was made of them, as the rows of the next product, the block's columns being its terms.
template <class Shape>
using ColumnTerms = RowFragment<Shape::kParts>[Shape::kColumns / Shape::kSides / 16 * Shape::kRowTiles];
template <class Shape, class Scores>
__device__ __forceinline__ void to_rows(const Scores& from, ColumnTerms<Shape>& to) {
  constexpr int kRowTiles = Shape::kRowTiles;
#pragma unroll
  for (int k = 0; k < Shape::kColumns / Shape::kSides / 16; ++k)
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = 4 * (m + kRowTiles * (2 * k + i / 2)) + i % 2 * 2;
        split<typename Shape::Element>(from(at), from(at + 1), to[k * kRowTiles + m], i);
      }
}

// What a thread's rows of a sum are multiplied with before more is added to it: with factors of their own, or as they
// are.
template <class Shape>
struct Factors {
  float of_row[kThreadRows<Shape>];
  __device__ float operator()(int row) const { return of_row[row]; }
};
struct AsItIs {
  __device__ float operator()(int) const { return 1.f; }
};

// c = c * factor + rows . columns, over the columns of a block.
template <class Shape, class C, class Factor>
__device__ __forceinline__ void multiply_columns(const ColumnTerms<Shape>& rows,
                                                 const Planes<1, Shape::kColumns, Shape::kDim>& columns, C& c,
                                                 const Factor& factor) {
  if constexpr (!std::is_same_v<Factor, AsItIs>) {
    bool all_one = true;  // as it is once the greatest score of each row has been seen
#pragma unroll
    for (int i = 0; i < kThreadRows<Shape>; ++i) all_one = all_one && factor(i) == 1.f;
    if (!__all_sync(~0u, all_one)) {
#pragma unroll
      for (int i = 0; i < cute::size(c); ++i) c(i) *= factor(row_of_element<Shape>(i));
    }
  }
#pragma unroll
  for (int k = 0; k < Shape::kColumns / 16; ++k)
#pragma unroll
    for (int x = 0; x < Shape::kDim; x += 16) {
      const ColumnFragment<1> b = transposed_fragment(columns, x, 16 * k);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int m = 0; m < Shape::kRowTiles; ++m)
          multiply_tile<Shape>(rows[k * Shape::kRowTiles + m].part[0], b.part[0][i], c,
                               m + Shape::kRowTiles * (x / 8 + i));
    }
}
template <class Shape, class C, class Factor>
__device__ __forceinline__ void multiply_columns(const ColumnTerms<Shape>& rows,
                                                 const Planes<3, Shape::kColumns, Shape::kDim>& columns, C& c,
                                                 const Factor& factor) {
  constexpr int kSteps = Shape::kColumns / 16, kPairs = Shape::kPairs;
#pragma unroll
  for (int x = 0; x < Shape::kDim; x += 16 * kPairs) {
    ColumnFragment<3> b[kSteps][kPairs];
    auto sum = accumulator<Shape, Shape::kRows, 16 * kPairs>();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int n = 0; n < kPairs; ++n) b[k][n] = transposed_fragment(columns, x + 16 * n, 16 * k);
      multiply_small<Shape, Rows::kQueries>(rows[k], b[k], sum);
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) multiply_great<Shape>(rows[k], b[k], sum);
#pragma unroll
    for (int i = 0; i < cute::size(sum); ++i) c(x / 2 + i) = fmaf(c(x / 2 + i), factor(i % 4 / 2), sum(i));
  }
}

}  // namespace longstride::engine::cuda::sm80
