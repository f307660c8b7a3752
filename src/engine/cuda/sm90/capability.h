// Asked by forward and backward before any work, so that nothing is ignored.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// Throws Error unless capability() takes the problem and the plan belongs to it and has the direction.
void require(const Problem&, const DevicePlan&, Direction, const Geometry&);

}  // namespace longstride::engine::cuda::sm90
