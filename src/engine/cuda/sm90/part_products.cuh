// Products of floats that have three parts of bfloat16 each (tile/parts.cuh), six of WGMMA's for one. An operand's last
// index is the part. Used by the consumers of the kernels of float32.
#pragma once

#include <cute/tensor.hpp>

#include "engine/cuda/tile/parts.cuh"

namespace longstride::engine::cuda::sm90 {

// Addresses of operands are worked out where they are used: of three parts those of all steps at once have no
// registers.
template <class Operand>
__device__ __forceinline__ void work_out_here(Operand& operand) {
  asm volatile("" : "+r"(operand.data().desc_.reg32_[0]));
}

// The parts of an operand that begin at `first` of its last index.
template <class Operand>
struct PartsOf {
  Operand& all;
  int first;
  __device__ __forceinline__ auto at(int step, int part) const { return all(cute::_, cute::_, step, first + part); }
};
template <class Operand>
PartsOf(Operand&, int) -> PartsOf<Operand>;

// Scores, their small products summed apart from the great ones, in the order of sm80/product.cuh: WGMMA and mma.sync
// round alike, so that every kernel makes the same bits of a score, and a backward takes away what a forward added.
template <bool kRowsAreQueries, int kSteps, class Mma, class Rows, class Columns, class Sums>
__device__ __forceinline__ void multiply_scores(Mma& mma, const PartsOf<Rows>& rows, const PartsOf<Columns>& columns,
                                                Sums& great, Sums& small) {
  using namespace cute;
  mma.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
  for (int x = 0; x < kSteps; ++x) {
#pragma unroll
    for (int product = 0; product < kSmallProducts; ++product) {
      const int q = query_part(product), k = key_part(product);
      cute::gemm(mma, rows.at(x, kRowsAreQueries ? q : k), columns.at(x, kRowsAreQueries ? k : q), small);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
  }
  mma.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
  for (int x = 0; x < kSteps; ++x) {
    cute::gemm(mma, rows.at(x, 0), columns.at(x, 0), great);
    mma.accumulate_ = GMMA::ScaleOut::One;
  }
}

// What few steps multiply: one sum, the small products first.
template <int kSteps, class Mma, class Rows, class Columns, class Sums>
__device__ __forceinline__ void multiply_block(Mma& mma, const PartsOf<Rows>& rows, const PartsOf<Columns>& columns,
                                               Sums& sums) {
  using namespace cute;
  mma.accumulate_ = GMMA::ScaleOut::Zero;
#pragma unroll
  for (int x = 0; x < kSteps; ++x) {
#pragma unroll
    for (int product = 0; product < kSmallProducts; ++product) {
      cute::gemm(mma, rows.at(x, query_part(product)), columns.at(x, key_part(product)), sums);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
  }
#pragma unroll
  for (int x = 0; x < kSteps; ++x) cute::gemm(mma, rows.at(x, 0), columns.at(x, 0), sums);
}

// Floats of an accumulator become the registers of the next product's operand.
template <class Floats, class Operand>
__device__ __forceinline__ void split_into(const Floats& from, Operand& to) {
  constexpr int kPairs = decltype(cute::size(from))::value / 2;
  auto pairs = cute::recast<uint32_t>(to);
#pragma unroll
  for (int i = 0; i < kPairs; ++i)
    split<float>(from[2 * i], from[2 * i + 1], [&](int part) -> uint32_t& { return pairs[part * kPairs + i]; });
}

}  // namespace longstride::engine::cuda::sm90
