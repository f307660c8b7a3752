// What the reference engine's forward and backward share: their checks, and the heads side by side. They walk a plan
// row by row and pair by pair (longstride/plan/walk.h), assuming nothing about how it was compiled.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "engine/contract.h"

namespace longstride::engine::reference {

// Calls body(b, j) for every batch row and KV head, in parallel if the caller brought threads.
template <typename Body>
void for_each_kv_head(const Problem& p, const Workspace& workspace, Body&& body) {
  for_each_index(workspace, p.batch * p.kv_heads,
                 [&](int64_t index, int) { body(index / p.kv_heads, index % p.kv_heads); });
}

// The score of query head h's pair of these positions, whose product is `product`.
inline double score_of(const Problem& p, int64_t h, int64_t query, int64_t key, double product) {
  const double score = p.scale * product;
  return p.alibi ? score - p.alibi_slopes[h] * static_cast<double>(std::abs(query - key)) : score;
}

// Throws Error if problem and plan do not belong together or ask for what this engine has not.
void check(const Problem&, const PlanView&, Direction);

}  // namespace longstride::engine::reference
