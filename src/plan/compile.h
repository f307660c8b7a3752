// The compiler behind compile(), for who has classes or rectangles already: the planner of ranks, whose shards are some
// rows and columns of a call, and whose received keys lie where no pattern knows them.
#pragma once

#include <vector>

#include "longstride/plan.h"
#include "plan/classes.h"
#include "plan/level.h"
#include "plan/rectangles.h"

namespace longstride::plan {

// Throws Error if a number is out of its range.
void check_geometry(const Geometry&);

// Of the rows and columns of the scope, which are positions of the call that the classes are of. Sets sliding_unit
// itself. Geometry and pattern are checked. Throws Error if a density cannot be reached.
Plan compile_classes(const Pattern&, const Classes&, Scope);

// Of rectangles of queries (rows) and keys (columns) in tokens, a list for each class; transposed here if the scope is.
// Where they overlap weights add. Nothing is causal but by their own diagonals.
Plan compile_rectangles(const std::vector<std::vector<Rectangle>>&, const std::vector<int32_t>& class_of, Scope);

}  // namespace longstride::plan
