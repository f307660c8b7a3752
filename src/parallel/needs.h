// Which keys the queries of a rank see: from the rectangles that the plan is compiled from, by arithmetic. A segment
// that lies in one piece of a shard costs nothing, one that straddles pieces costs one progression, and the block
// patterns cost what their rows in the shard do. Called by the lists (lists.h), the survey (survey.h) and the slices.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/pattern/sight.h"
#include "parallel/call.h"
#include "plan/rectangles.h"

namespace longstride::parallel {

// Keys of other ranks, in the order in which they lie in the buffer of received keys.
struct Rows {
  Progression keys;
  int32_t source = 0;    // of ShardedCall::sources(), the first one that needs them
  int64_t received = 0;  // row of the first key, from where those of the place begin
};

struct Need {
  std::vector<Rows> rows;      // no key twice, none of the rank's own
  int64_t count = 0;           // keys in all
  std::vector<int64_t> alone;  // of each source: keys of other ranks that it needs, whatever the others bring
};

// Of the queries that a rank holds, for one (batch row, KV head) of the class. Keys that no causal pair shows are not
// needed. Throws Error if a density cannot be reached.
Need need(const ShardedCall&, int64_t rank, int64_t class_id);

// Those of its rows that lie in the pieces, which ascend: `received` counts these alone, and `alone` is zero.
Need within(const Need&, const std::vector<Piece>&);

// What a group samples of its segment [begin, end), which is cut off where its document ends.
Progression samples(const plan::Sampling&, int64_t begin, int64_t end);

// Of one group in one piece: the segments that lie not all in the piece, with their samples.
struct Straddling {
  Progression queries;  // of the piece
  Progression keys;     // of the segment; causal: up to the last of the queries
};
std::vector<Straddling> straddling(const ShardedCall&, const plan::ClassSpec&, const plan::Sampling&, const Piece&);

// The block patterns of a class for the queries [begin, end), in rectangles of single tokens whose pairs are disjoint;
// causal pairs are hidden beyond what these say. Empty if there is none.
std::vector<plan::Rectangle> block_rectangles(const ShardedCall&, const plan::ClassSpec&, int64_t begin, int64_t end);

}  // namespace longstride::parallel
