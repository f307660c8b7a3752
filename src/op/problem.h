// From a checked call to the engine's Problem.
#pragma once

#include "engine/contract.h"
#include "longstride/pattern.h"
#include "op/call.h"

namespace longstride::op {

// The problem of a call without its tensors' memory: what capability and geometry are asked about.
engine::Problem problem_of(core::DType, int64_t dim, const Settings&, const Pattern&, const Extent&);

}  // namespace longstride::op
