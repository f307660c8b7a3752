// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011) and the dropout decision drawn from it, the same on every
// engine, tiling and number of ranks. Called by the engines, forward and backward. Test vectors: docs/dropout.md.
#pragma once

#include <array>
#include <cstdint>

namespace longstride::core {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

constexpr PhiloxCounter philox4x32_10(PhiloxCounter c, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(p0)};
    // The golden ratio and sqrt(3) - 1: the Weyl sequence of the key schedule.
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return c;
}

// Dropout of one call: D(b, h, q, k), one draw per pair. q and k are row positions of the whole sequence, h is the
// query head. Undefined for p outside [0, 1); p = 0 keeps everything.
class Dropout {
 public:
  constexpr Dropout() = default;
  constexpr Dropout(double p, int64_t seed, int64_t heads)
      : key_{static_cast<uint32_t>(static_cast<uint64_t>(seed)),
             static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)},
        threshold_(static_cast<uint32_t>(p * 4294967296.0)),  // floor(p * 2^32); p < 1 keeps it below 2^32
        heads_(heads),
        gain_(1.0 / (1.0 - p)) {}

  constexpr bool active() const { return threshold_ != 0; }
  constexpr uint32_t threshold() const { return threshold_; }
  constexpr PhiloxKey key() const { return key_; }
  // 1 / (1 - p): what a kept probability is multiplied with.
  constexpr double gain() const { return gain_; }

  static constexpr PhiloxCounter counter(int64_t heads, int64_t b, int64_t h, int64_t q, int64_t k) {
    const uint64_t uq = static_cast<uint64_t>(q);
    const uint64_t uk = static_cast<uint64_t>(k);
    return {static_cast<uint32_t>(uq), static_cast<uint32_t>(uk),
            static_cast<uint32_t>(((uq >> 32) << 16) | (uk >> 32)), static_cast<uint32_t>(b * heads + h)};
  }

  constexpr bool keeps(int64_t b, int64_t h, int64_t q, int64_t k) const {
    return philox4x32_10(counter(heads_, b, h, q, k), key_)[0] >= threshold_;
  }

 private:
  PhiloxKey key_{};
  uint32_t threshold_ = 0;
  int64_t heads_ = 1;
  double gain_ = 1;
};

}  // namespace longstride::core
