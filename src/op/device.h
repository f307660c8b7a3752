// From checked tensors to the engine's Problem.
#pragma once

#include "engine/contract.h"
#include "op/call.h"

namespace longstride::op {

// The problem of a call without its tensors' memory: what capability and geometry are asked about.
engine::Problem problem_of(const at::Tensor& q, const at::Tensor& k, const Call&, const Pattern&, const Extent&);

}  // namespace longstride::op
