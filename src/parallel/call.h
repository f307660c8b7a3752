// What the planner of ranks plans for: self-attention over a sequence that lies in shards. Checked once when it is
// made; everything else here takes it as given.
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "longstride/pattern.h"
#include "parallel/shards.h"
#include "plan/classes.h"

namespace longstride::parallel {

// The KV heads [at * n, (at + 1) * n), and the heads that they serve, where n is 1 / of of all.
struct HeadShare {
  int64_t of = 1;
  int64_t at = 0;
  bool operator==(const HeadShare&) const = default;
};

struct ShardedCall {
  // The extent is that of all heads. Throws Error: what the pattern and the lengths refuse, shards that are not len_k
  // tokens in all, lengths with fewer queries than keys, and a share that does not divide the KV heads.
  ShardedCall(Pattern, Extent, Shards, HeadShare = {});

  Pattern pattern;
  Extent extent;  // of the share
  Shards shards;
  // Those that compile() makes of pattern and lengths, for every (batch row, KV head): a *place*, counted row by row.
  plan::Classes classes;
  // Of each class: which group of the pattern each of its samplings is.
  std::vector<std::vector<int32_t>> groups_of;
  // Of each class: how many (batch row, KV head) it serves.
  std::vector<int64_t> places_of;

  int64_t groups() const { return std::ssize(pattern.groups()); }
  // Where rows come from: the groups, and after them the block patterns, all as one.
  int64_t sources() const { return groups() + 1; }
  int64_t class_count() const { return std::ssize(classes.specs); }
};

// What a row costs.
struct RowShape {
  int64_t dim = 64;
  core::DType dtype = core::DType::kBFloat16;

  int64_t element_bytes() const { return static_cast<int64_t>(core::size_bytes(dtype)); }
  // K and V of one position and KV head, as they travel forward.
  int64_t forward_bytes() const { return 2 * dim * element_bytes(); }
  // Their gradients on the way back: float32, float64 of float64.
  int64_t backward_bytes() const { return 2 * dim * wide_bytes(); }
  // An element of these, and of lse.
  int64_t wide_bytes() const { return dtype == core::DType::kFloat64 ? 8 : 4; }
};

}  // namespace longstride::parallel
