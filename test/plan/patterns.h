// The patterns and lengths that the planner's bounds are tested on.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/pattern.h"

namespace longstride::test {

inline constexpr int64_t kMillion = 1 << 20;
inline const std::vector<int64_t> kFixed = {2048, 4096, 8192, 16384, 32768};
inline const std::vector<int64_t> kGrowing = {2048, 16384, 65536, 262144, kMillion};
inline const std::vector<int64_t> kDoubling = {1, 2, 4, 8, 16};
inline const std::vector<int64_t> kLongNet = {1, 2, 4, 6, 12};

// LongNet's geometric configuration: segments 2048, 4096, ... up to `len`, rates 1, 2, ...
inline Pattern growing(int64_t len, bool causal) {
  std::vector<int64_t> segments, rates;
  for (int64_t k = 0; (int64_t{2048} << k) <= len; ++k) {
    segments.push_back(int64_t{2048} << k);
    rates.push_back(int64_t{1} << k);
  }
  return Pattern::dilated(segments, rates, {.causal = causal});
}

inline Extent square(int64_t heads, int64_t len) {
  return {.heads = heads, .kv_heads = heads, .len_q = len, .len_k = len};
}

// The last query of `len` positions.
inline Extent step(int64_t heads, int64_t len) {
  return {.heads = heads, .kv_heads = heads, .len_q = 1, .len_k = len, .query_start = len - 1};
}

inline std::vector<BlockPattern> block_patterns(int64_t size) {
  return {BlockPattern(size, LocalWindow{.window = 8 * size}),
          BlockPattern(size, DilatedSparse{.rates = {1, 4}, .reach = 8}),
          BlockPattern(size, GlobalLocal{4 * size, 2 * size}),
          BlockPattern(size, Axial{}),
          BlockPattern(size, RandomBlocks{0.05, 1}),
          BlockPattern(size, Hierarchical{{{size, 4 * size}, {16 * size, 64 * size}}})};
}

}  // namespace longstride::test
