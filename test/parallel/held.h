// Shards drawn at random, and who holds what by their definition, position by position.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/shards.h"
#include "test/engine/draw.h"

namespace longstride::test {

// Shards with the positions of each rank in the order of its rows, listed without asking the shards.
struct Held {
  parallel::Shards shards;
  std::vector<std::vector<int64_t>> positions;
  std::string words;
};

inline Held held_zigzag(int64_t len, int64_t ranks) {
  Held held{parallel::Shards::zigzag(len, ranks), std::vector<std::vector<int64_t>>(ranks),
            "zigzag on " + std::to_string(ranks)};
  int64_t position = 0;
  for (int64_t chunk = 0; chunk < 2 * ranks; ++chunk) {
    const int64_t rank = std::min(chunk, 2 * ranks - 1 - chunk);
    const int64_t rows = len / (2 * ranks) + (chunk < len % (2 * ranks) ? 1 : 0);
    for (int64_t i = 0; i < rows; ++i) held.positions[rank].push_back(position++);
  }
  return held;
}

inline Held held_contiguous(const std::vector<int64_t>& lengths, const parallel::Shards& shards) {
  Held held{shards, std::vector<std::vector<int64_t>>(lengths.size()), "contiguous"};
  int64_t position = 0;
  for (size_t rank = 0; rank < lengths.size(); ++rank) {
    held.words += " " + std::to_string(lengths[rank]);
    for (int64_t i = 0; i < lengths[rank]; ++i) held.positions[rank].push_back(position++);
  }
  return held;
}

inline Held held_even(int64_t len, int64_t ranks) {
  std::vector<int64_t> lengths;
  for (int64_t rank = 0; rank < ranks; ++rank) lengths.push_back(len / ranks + (rank < len % ranks ? 1 : 0));
  return held_contiguous(lengths, parallel::Shards::even(len, ranks));
}

// 1 to `most` ranks; even, uneven with empty shards among them, or zigzag.
inline Held draw_shards(int64_t len, Draw& draw, int64_t most = 16) {
  const int64_t ranks = 1 + draw.below(most);
  const int64_t kind = draw.below(3);
  if (kind == 0) return held_even(len, ranks);
  if (kind == 1) return held_zigzag(len, ranks);
  std::vector<int64_t> cuts = {0, len};
  for (int64_t n = 1; n < ranks; ++n) cuts.push_back(draw.one_of({draw.below(len + 1), cuts[draw.below(n)]}));
  std::sort(cuts.begin(), cuts.end());
  std::vector<int64_t> lengths;
  for (int64_t n = 0; n < ranks; ++n) lengths.push_back(cuts[n + 1] - cuts[n]);
  return held_contiguous(lengths, parallel::Shards::of_lengths(lengths));
}

}  // namespace longstride::test
