// A rank's rows on a CUDA device: present.cc in builds with LONGSTRIDE_CUDA, absent.cc in the others. Called by
// rank_call.cc for tensors on CUDA devices.
#pragma once

#include <memory>

#include "op/engines.h"
#include "op/parallel/rank_cache.h"
#include "parallel/moves.h"

namespace longstride::op {

// Borrows all three. Its work goes to the loan's stream, on the current device; the rank's tables are copied there
// once and kept as long as the rank.
std::unique_ptr<parallel::Moves> device_moves(const CachedRank&, const engine::Problem&, const Loan&);

}  // namespace longstride::op
