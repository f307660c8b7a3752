// Which gates pairs of positions belong to (contract.h). Called by the backwards of the engines that go by their plan.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/contract.h"

namespace longstride::engine {

// Calls body(gate, key range, query range) for every gate of `place`, a (batch row, KV head), whose range meets the
// keys [key_begin, key_end) and the queries [query_begin, query_end), as body(int64_t gate, int64_t k0, int64_t k1,
// int64_t q0, int64_t q1).
template <class Body>
void for_each_gate(const Gates& gates, int64_t place, int64_t key_begin, int64_t key_end, int64_t query_begin,
                   int64_t query_end, Body&& body) {
  const GateRange* const last = gates.ranges + gates.begin[place + 1];
  // The first range that begins beyond a key.
  const auto beyond = [last](const GateRange* from, int64_t key) {
    return std::partition_point(from, last, [key](const GateRange& r) { return r.key_begin <= key; });
  };
  const GateRange* column = gates.ranges + gates.begin[place];
  const GateRange* column_end = beyond(column, key_begin);
  // Of those before it only the last to begin can reach the key.
  if (column_end != column) column = beyond(column, column_end[-1].key_begin - 1);
  for (; column != last && column->key_begin < key_end; column = column_end) {
    column_end = beyond(column, column->key_begin);
    const GateRange* range =
        std::partition_point(column, column_end, [=](const GateRange& r) { return r.query_end <= query_begin; });
    for (; range != column_end && range->query_begin < query_end; ++range) {
      if (range->key_end <= key_begin) continue;
      body(range - gates.ranges, std::max(key_begin, range->key_begin), std::min(key_end, range->key_end),
           std::max(query_begin, range->query_begin), std::min(query_end, range->query_end));
    }
  }
}

}  // namespace longstride::engine
