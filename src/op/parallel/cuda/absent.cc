// Builds without LONGSTRIDE_CUDA. Not reached: a call chooses its engine first, which is refused there.
#include "op/parallel/cuda/device_moves.h"

namespace longstride::op {

std::unique_ptr<parallel::Moves> device_moves(const CachedRank&, const engine::Problem&, const Loan&) { return {}; }

}  // namespace longstride::op
