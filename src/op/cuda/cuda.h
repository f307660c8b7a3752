// The CUDA engines as the op sees them: present.cc in builds with LONGSTRIDE_CUDA, absent.cc in the others. Called by
// engines.cc for tensors on CUDA devices.
#pragma once

#include <vector>

#include "op/engines.h"

namespace longstride::op::cuda {

// The one engine for the problem on this device, which is the current one. Throws Error with the reasons if there is
// none.
const Engine& choose_engine(Place, const engine::Problem&);

// Torch's caching allocator and its current stream on the current device.
Loan lend(Place);

// What this build and this machine have.
std::vector<EngineReport> reports();

}  // namespace longstride::op::cuda
