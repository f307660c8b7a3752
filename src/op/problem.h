// From a checked call to the engine's Problem.
#pragma once

#include "engine/contract.h"
#include "longstride/pattern.h"
#include "op/call.h"

namespace longstride::op {

// The problem of a call without its tensors' memory: what capability and geometry are asked about.
engine::Problem problem_of(core::DType, int64_t dim, const Settings&, const Pattern&, const Extent&);
template <class Tensor, class Size>
engine::Problem problem_of(core::DType dtype, int64_t dim, const CallOf<Tensor, Size>& call, const Pattern& pattern,
                           const Extent& extent) {
  const Settings& settings = call;
  engine::Problem problem = problem_of(dtype, dim, settings, pattern, extent);
  problem.alibi = given(call.alibi_slopes);
  return problem;
}

}  // namespace longstride::op
