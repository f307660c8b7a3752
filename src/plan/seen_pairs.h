// Counts the pairs that a class shows, each once, though two levels may execute it both. Called by count().
#pragma once

#include <cstdint>

#include "longstride/plan.h"

namespace longstride::plan {

// Assumes what verify() checks and what every compiled plan keeps: the rows of a level are disjoint, and so are the
// pairs of one tile's runs. Costs a few operations for every two tiles that share rows.
int64_t seen_pairs(const PlanView&, const PlanClass&);

}  // namespace longstride::plan
