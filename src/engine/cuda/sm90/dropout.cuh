// The dropout mask of a consumer's accumulator. Used by the kernels that are built with WithDropout or Extras
// (extras.h).
#pragma once

#include <cstdint>

#include "engine/cuda/tile/dropout.cuh"

namespace longstride::engine::cuda::sm90 {

// Which of a thread's pairs of one accumulator are kept, one bit each; bit 4 * n + 2 * r + c as the accumulator counts.
template <int kWidth>
struct Kept {
  uint32_t words[(kWidth / 2 + 31) / 32];
  static __device__ __forceinline__ Kept all() {
    Kept kept;
    for (uint32_t& word : kept.words) word = ~0u;
    return kept;
  }
  __device__ __forceinline__ bool at(int i) const { return words[i / 32] >> (i % 32) & 1; }
};

// Accumulator rows stand at row + {0, 8} * stride, columns at column + (8 * n + c) * stride. `rows_are_queries` false:
// the other way round (backward). Each column's word is made once and serves both rows.
template <int kWidth>
__device__ __forceinline__ Kept<kWidth> draw(const DropoutValues& d, bool rows_are_queries, int row, int column,
                                             int stride, uint32_t stream) {
  const DropoutSalts salts = dropout_salts(d, stream);
  const uint32_t of_rows = rows_are_queries ? salts.query : salts.key;
  const uint32_t of_columns = rows_are_queries ? salts.key : salts.query;
  const uint32_t rows[2] = {core::dropout_word(of_rows, row), core::dropout_word(of_rows, row + 8 * stride)};
  Kept<kWidth> kept;
#pragma unroll
  for (int word = 0; word < (kWidth / 2 + 31) / 32; ++word) {
    constexpr int kBits = kWidth / 2 < 32 ? kWidth / 2 : 32;
    uint32_t bits = 0;
    // Rolled: unrolled, the loops of all words would be a thousand instructions.
#pragma unroll 1
    for (int n = 0; n < kBits / 4; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t at_column = core::dropout_word(of_columns, column + ((word * 8 + n) * 8 + c) * stride);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t drawn =
              rows_are_queries ? core::dropout_draw(rows[r], at_column) : core::dropout_draw(at_column, rows[r]);
          bits |= uint32_t(drawn >= d.threshold) << (4 * n + 2 * r + c);
        }
      }
    }
    kept.words[word] = bits;
  }
  return kept;
}

}  // namespace longstride::engine::cuda::sm90
