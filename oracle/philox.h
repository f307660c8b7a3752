// The dropout draw of the oracle, written from the published algorithm (Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). Called by oracle/attention.h only; shares no line with the library.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace oracle {

// Philox4x32 with ten rounds: four counter words and two key words in, four words out.
inline std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t right = uint64_t{0xCD9E8D57u} * counter[2];
    const std::array<uint32_t, 4> mixed = {
        static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right & 0xFFFFFFFFu),
        static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left & 0xFFFFFFFFu)};
    counter = mixed;
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Whether the pair (q, k) of batch row b and query head h of `heads` is kept under dropout p.
inline bool keeps(uint64_t seed, double p, int64_t heads, int64_t b, int64_t h, int64_t q, int64_t k) {
  const uint64_t uq = static_cast<uint64_t>(q);
  const uint64_t uk = static_cast<uint64_t>(k);
  const std::array<uint32_t, 4> counter = {
      static_cast<uint32_t>(uq % 4294967296u), static_cast<uint32_t>(uk % 4294967296u),
      static_cast<uint32_t>(((uq >> 32) << 16) | (uk >> 32)), static_cast<uint32_t>(b * heads + h)};
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed % 4294967296u), static_cast<uint32_t>(seed >> 32)};
  const double threshold = std::floor(p * 4294967296.0);
  return static_cast<double>(philox4x32_10(counter, key)[0]) >= threshold;
}

}  // namespace oracle
