// How many rows go from whom to whom, counted and not listed: what pictures of an exchange are drawn from. Called by
// the program's show.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/call.h"

namespace longstride::parallel {

// Of each rank the rows that this one needs of it, over all (batch row, KV head): those of the messages that lists()
// gives, at no cost for rows. A few operations for each progression and chunk that it meets.
std::vector<int64_t> rows_by_sender(const ShardedCall&, int64_t rank);

}  // namespace longstride::parallel
