// The dropout mask inside the kernels: Philox4x32-10 (Salmon et al., SC 2011), one draw a pair, as docs/dropout.md
// says. A kernel is built with one of the two types below. Used by forward and backward consumers.
#pragma once

#include <cstdint>

#include "engine/cuda/sm90/dropout.h"

namespace longstride::engine::cuda::sm90 {

// Word 0 for counter (q, k, 0, stream); positions are below 2^31 here, so the third word is 0.
__device__ __forceinline__ uint32_t philox_word(uint32_t q, uint32_t k, uint32_t stream, uint32_t key0, uint32_t key1) {
  uint32_t c0 = q, c1 = k, c2 = 0, c3 = stream;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ key0;
    c1 = low1;
    c2 = high0 ^ c3 ^ key1;
    c3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c0;
}

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
