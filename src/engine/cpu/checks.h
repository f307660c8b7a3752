// What both directions refuse. Called by forward.cc and backward.cc before any work.
#pragma once

#include "engine/contract.h"

namespace longstride::engine::cpu {

// Throws Error unless this engine can run `plan` on `p`.
void check(const Problem& p, const PlanView& plan, Direction direction);

}  // namespace longstride::engine::cpu
