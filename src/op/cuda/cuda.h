// The CUDA engines as the op sees them: present.cc in builds with LONGSTRIDE_CUDA, absent.cc in the others. Called by
// engines.cc for tensors on CUDA devices.
#pragma once

#include <string_view>
#include <vector>

#include "op/engines.h"

namespace longstride::op::cuda {

// The one engine for the problem on this device, which is the current one; `wanted`: that of use_engine(), and none
// other if it is one of these. Throws Error with the reasons if there is none.
const Engine& choose_engine(Place, const engine::Problem&, std::string_view wanted);

// Of this build.
std::vector<const char*> engine_names();

// Torch's caching allocator and its current stream on the current device.
Loan lend(Place);

// What this build and this machine have.
std::vector<EngineReport> reports();

}  // namespace longstride::op::cuda
