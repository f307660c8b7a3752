// What MultiheadDilatedAttention does with a KeyValueCache.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "longstride/nn/attention.h"

namespace longstride::nn {

// shape: [batch, capacity, kv_heads, dim].
KeyValueCache empty_cache(const std::array<int64_t, 4>& shape, const std::optional<Retention>&,
                          const at::TensorOptions&);

// That `len` more rows fit into a cache, and that it holds what they see. Before any work: of what type they will be is
// known behind the projection.
void check_room(const KeyValueCache&, const std::optional<Retention>&, int64_t len);

// Writes k and v, [batch, len, kv_heads, dim], behind what the cache holds, and makes them all of that: the keys and
// values that their queries see. Returns how many positions are not among them. `length` stays, so that a step that
// fails behind this can be run again.
int64_t append(KeyValueCache&, const std::optional<Retention>&, at::Tensor& k, at::Tensor& v);

}  // namespace longstride::nn
