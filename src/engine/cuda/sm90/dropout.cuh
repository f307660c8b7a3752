// The dropout mask of a consumer's accumulator. Used by the kernels that are built with PhiloxDropout.
#pragma once

#include <cstdint>

#include "engine/cuda/dropout.h"
#include "engine/cuda/philox.cuh"

namespace longstride::engine::cuda::sm90 {

// Which of a thread's pairs of one accumulator are kept, one bit each; bit 4 * n + 2 * r + c as the accumulator counts.
// The draws run in a rolled loop: unrolled they would be thousands of instructions.
template <int kWidth>
struct Kept {
  uint32_t words[(kWidth / 2 + 31) / 32];
  __device__ __forceinline__ bool at(int i) const { return words[i / 32] >> (i % 32) & 1; }
};

// Accumulator rows stand at row + {0, 8} * stride, columns at column + (8 * n + c) * stride. `rows_are_queries` false:
// the other way round (backward).
template <int kWidth>
__device__ __forceinline__ Kept<kWidth> draw(const DropoutValues& d, bool rows_are_queries, int row, int column,
                                             int stride, uint32_t stream) {
  Kept<kWidth> kept;
  const uint64_t seed = static_cast<uint64_t>(*d.seed);
  const uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int word = 0; word < (kWidth / 2 + 31) / 32; ++word) {
    constexpr int kBits = kWidth / 2 < 32 ? kWidth / 2 : 32;
    uint32_t bits = 0;
#pragma unroll 1
    for (int bit = 0; bit < kBits; ++bit) {
      const int i = word * 32 + bit;
      const uint32_t x = row + (i / 2 % 2 * 8) * stride, y = column + (i / 4 * 8 + i % 2) * stride;
      const uint32_t drawn =
          rows_are_queries ? philox_word(x, y, stream, key0, key1) : philox_word(y, x, stream, key0, key1);
      bits |= uint32_t(drawn >= d.threshold) << bit;
    }
    kept.words[word] = bits;
  }
  return kept;
}

}  // namespace longstride::engine::cuda::sm90
