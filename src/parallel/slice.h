// What one rank computes: the rectangles of a pattern cut to its queries, and where their keys lie in its memory. Two
// levels, which one softmax joins: against the keys of its own shard, and against the buffer of received keys
// (lists.h), so that the first can run while rows travel. The weights that all ranks execute sum to those of the whole
// pattern. Called by who plans tiles for a rank.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "longstride/pattern/sight.h"
#include "parallel/call.h"
#include "parallel/needs.h"

namespace longstride::parallel {

// Every query with every key such that low <= key - query <= high, in positions; counted once, on top of what other
// rectangles count.
struct Shown {
  static constexpr int64_t kUnbounded = std::numeric_limits<int64_t>::max() / 4;
  Progression queries;    // positions, in one piece of the shard
  int64_t query_row = 0;  // of the first in the shard; the others follow at the same step
  Progression keys;       // positions
  int64_t key_row = 0;    // of the first: in the shard; or in the received keys, from where those of the place begin
  int64_t key_step = 1;   // from each to the next there
  int64_t low = -kUnbounded;
  int64_t high = kUnbounded;
};

// Keys of logit 0 and value 0 (Padding::kZeroKeys). They are where the query is, in the local level.
struct PhantomKeys {
  Progression queries;
  int64_t query_row = 0;
  int64_t count = 0;  // for each of the queries, on top of what other entries count
};

struct Slice {
  std::vector<Shown> local;
  std::vector<Shown> received;  // no diagonal runs through these but a window's: their keys lie beyond the piece
  std::vector<PhantomKeys> phantoms;
};

// For one (batch row, KV head) of the class; `need` is need(call, rank, class_id), or a part of it (within()), of which
// `received` is then. Costs what it lists.
Slice slice(const ShardedCall&, int64_t rank, int64_t class_id, const Need&);
// Its `received` alone, at the cost of that.
Slice received_slice(const ShardedCall&, int64_t rank, int64_t class_id, const Need&);

}  // namespace longstride::parallel
