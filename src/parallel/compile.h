// The plans that a rank's engine runs: of each piece of its shard by itself, which need nothing of others, and of what
// it has gathered (gathered.h). They are plans as those of one process are, and any engine runs them. Together, over
// all ranks, their pairs are those of the whole pattern, and phantom keys stand in those of the pieces.
#pragma once

#include "longstride/plan.h"
#include "parallel/call.h"
#include "parallel/gathered.h"

namespace longstride::parallel {

// Throw Error as compile() does.

// Queries and keys are the rows of the piece, counted from its first one: len_q = len_k = the piece's length.
Plan compile_piece(const ShardedCall&, const Piece&, const Geometry&, Direction);
// Queries are the gathered ones, keys the rows of the buffer of keys: len_q = Gathered::queries, len_k = ...::keys.
Plan compile_gathered(const ShardedCall&, const Gathered&, const Geometry&, Direction);

}  // namespace longstride::parallel
