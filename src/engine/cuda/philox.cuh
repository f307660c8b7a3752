// Philox4x32-10 (Salmon et al., SC 2011) as docs/dropout.md says: one draw a pair. Used by every kernel with dropout.
#pragma once

#include <cstdint>

namespace longstride::engine::cuda {

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

}  // namespace longstride::engine::cuda
