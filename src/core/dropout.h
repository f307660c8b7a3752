// Dropout of one call: which pairs are dropped, the same on every engine, tiling and number of ranks, forward and
// backward. A word a query and a word a key are mixed into one a pair. Called by the engines. docs/dropout.md has the
// definition, its test vectors and what it was tested with.
#pragma once

#include <cstdint>

#include "core/philox.h"

namespace longstride::core {

enum class Side : uint32_t { kQuery, kKey };

// What tells the words of one (batch row, query head) and side from another's: `stream` is b * heads + h, `upper` the
// upper half of the positions.
constexpr uint32_t dropout_salt(int64_t seed, uint32_t stream, Side side, uint32_t upper) {
  const PhiloxKey key = {static_cast<uint32_t>(static_cast<uint64_t>(seed)),
                         static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)};
  return philox4x32_10({upper, static_cast<uint32_t>(side), 0, stream}, key)[0];
}

// The word of a position, of which `lower` is the lower half: a bijection under which positions in a row have nothing
// in common ("lowbias32" of Wellons's hash prospector, 2018).
constexpr uint32_t dropout_word(uint32_t salt, uint32_t lower) {
  uint32_t x = lower ^ salt;
  x = (x ^ x >> 16) * 0x7FEB352Du;
  x = (x ^ x >> 15) * 0x846CA68Bu;
  return x ^ x >> 16;
}

// The word of a pair. The query's comes in twice: what equals in query ^ key must not equal here.
inline constexpr uint32_t kDropoutFirst = 0x9E3779B1, kDropoutLast = 0x85EBCA6B;
constexpr uint32_t dropout_draw(uint32_t query_word, uint32_t key_word) {
  uint32_t x = (query_word ^ key_word) * kDropoutFirst;
  x ^= x >> 15;
  return (x + query_word) * kDropoutLast;
}

// The same, multiplied out, for those who draw many pairs of a query: its share of the last product is made once, and
// the sum before it is left out.
constexpr uint32_t dropout_share(uint32_t query_word) { return query_word * kDropoutLast; }
constexpr uint32_t dropout_draw(uint32_t query_word, uint32_t key_word, uint32_t share) {
  uint32_t x = (query_word ^ key_word) * kDropoutFirst;
  x ^= x >> 15;
  return x * kDropoutLast + share;
}

// D(b, h, q, k): q and k are row positions of the whole sequence, h is the query head. Undefined for p outside [0, 1);
// p = 0 keeps everything. Of a call that has a share of all heads, h is a number in the share.
class Dropout {
 public:
  constexpr Dropout() = default;
  // `heads` are all heads, `first_head` the number among them of the call's first.
  constexpr Dropout(double p, int64_t seed, int64_t heads, int64_t first_head = 0)
      : seed_(seed),
        threshold_(static_cast<uint32_t>(p * 4294967296.0)),  // floor(p * 2^32); p < 1 keeps it below 2^32
        heads_(heads),
        first_head_(first_head),
        gain_(1.0 / (1.0 - p)) {}

  constexpr bool active() const { return threshold_ != 0; }
  // A pair is dropped iff its word is below.
  constexpr uint32_t threshold() const { return threshold_; }
  // 1 / (1 - p): what a kept probability is multiplied with.
  constexpr double gain() const { return gain_; }

  constexpr uint32_t salt(uint32_t stream, Side side, int64_t position) const {
    return dropout_salt(seed_, stream, side, static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32));
  }
  constexpr uint32_t word(uint32_t stream, Side side, int64_t position) const {
    return dropout_word(salt(stream, side, position), static_cast<uint32_t>(position));
  }
  constexpr uint32_t stream(int64_t b, int64_t h) const { return static_cast<uint32_t>(b * heads_ + first_head_ + h); }
  constexpr uint32_t draw(int64_t b, int64_t h, int64_t q, int64_t k) const {
    const uint32_t of = stream(b, h);
    return dropout_draw(word(of, Side::kQuery, q), word(of, Side::kKey, k));
  }
  constexpr bool keeps(int64_t b, int64_t h, int64_t q, int64_t k) const { return draw(b, h, q, k) >= threshold_; }

 private:
  int64_t seed_ = 0;
  uint32_t threshold_ = 0;
  int64_t heads_ = 1;
  int64_t first_head_ = 0;
  double gain_ = 1;
};

}  // namespace longstride::core
