// What show would have to count and to plan, known before any of it is done. Called by show. Torch-free.
#pragma once

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride::cli {

// Throws Error where a picture of the pattern would take minutes or gigabytes: it says what there is too much of.
void check_show_cost(const Pattern& pattern, const Extent& extent, const Geometry& geometry);

// The same where ranks share the sequence, which costs no segments and no tiles.
void check_ranks_cost(const Pattern& pattern, const Extent& extent, int64_t ranks);

}  // namespace longstride::cli
