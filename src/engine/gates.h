// Gates of blocks: which entry of Gradients::gates a pair of positions belongs to. Called by the backwards of the
// engines.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/contract.h"

namespace longstride::engine {

// Entries of one (batch row, KV head): [first, last).
struct GateRange {
  int64_t first = 0;
  int64_t last = 0;
};

inline GateRange gates_of(const GateBlocks& gates, int64_t place) {
  return {gates.begin[place * gates.key_blocks], gates.begin[(place + 1) * gates.key_blocks]};
}

// Calls body(entry, key range, query range) for every entry of `place` whose block meets the keys [key_begin, key_end)
// and the queries [query_begin, query_end), as body(int64_t entry, int64_t k0, int64_t k1, int64_t q0, int64_t q1).
template <class Body>
void for_each_gate(const GateBlocks& gates, int64_t place, int64_t key_begin, int64_t key_end, int64_t query_begin,
                   int64_t query_end, Body&& body) {
  const int64_t size = gates.block_size;
  for (int64_t j = key_begin / size; j * size < key_end; ++j) {
    const int64_t* const begin = gates.begin + place * gates.key_blocks + j;
    const int32_t* const last = gates.query_block + begin[1];
    const int32_t* entry = std::lower_bound(gates.query_block + begin[0], last, query_begin / size);
    for (; entry != last && *entry * size < query_end; ++entry) {
      body(entry - gates.query_block, std::max(key_begin, j * size), std::min(key_end, (j + 1) * size),
           std::max(query_begin, *entry * size), std::min(query_end, (*entry + 1) * size));
    }
  }
}

}  // namespace longstride::engine
