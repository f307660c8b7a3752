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

// The word of one position, of a query (side 0) or a key (side 1): Philox gives a salt for the head and the upper half
// of the position, and the lower half is scrambled with it.
inline uint32_t position_word(uint64_t seed, uint32_t head, uint32_t side, uint64_t position) {
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed % 4294967296u), static_cast<uint32_t>(seed >> 32)};
  const uint32_t salt = philox4x32_10({static_cast<uint32_t>(position >> 32), side, 0, head}, key)[0];
  uint64_t word = (position % 4294967296u) ^ salt;
  word = ((word ^ (word / 65536)) * 2146121005u) % 4294967296u;
  word = ((word ^ (word / 32768)) * 2221713035u) % 4294967296u;
  return static_cast<uint32_t>(word ^ (word / 65536));
}

// Whether the pair (q, k) of batch row b and query head h of `heads` is kept under dropout p.
inline bool keeps(uint64_t seed, double p, int64_t heads, int64_t b, int64_t h, int64_t q, int64_t k) {
  const auto head = static_cast<uint32_t>(b * heads + h);
  const uint64_t of_query = position_word(seed, head, 0, static_cast<uint64_t>(q));
  const uint64_t of_key = position_word(seed, head, 1, static_cast<uint64_t>(k));
  uint64_t word = (of_query ^ of_key) * 2654435761u % 4294967296u;
  word = ((word ^ (word / 32768)) + of_query) % 4294967296u * 2246822507u % 4294967296u;
  return static_cast<double>(word) >= std::floor(p * 4294967296.0);
}

}  // namespace oracle
