// What show would have to count and to plan, known before any of it is done. Called by show. Torch-free.
#pragma once

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride::cli {

// Throws Error where a picture of the pattern would take minutes or gigabytes: it says what there is too much of.
void check_show_cost(const Pattern& pattern, const Extent& extent, const Geometry& geometry);

}  // namespace longstride::cli
