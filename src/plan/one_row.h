// The runs of a single query, a decoding step, written down from its progressions: it may be planned at every position.
// Called by the class writer in place of the level search and the tiler, which find the same in three times the steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "longstride/plan.h"
#include "plan/level.h"

namespace longstride::plan {

inline constexpr size_t kMostReaches = 16;  // groups of a class: further ones are for the tiler

// Appends the runs of row scope.row_begin, the only one, and returns the stride of their level. 0: nothing was
// appended, since the rates do not divide each other, or there are blocks or phantom keys; then the tiler makes them.
// Of a causal scope those that end with the row grow.
int64_t runs_of_one_row(const ClassSpec&, const Scope&, std::vector<Run>& runs);

}  // namespace longstride::plan
