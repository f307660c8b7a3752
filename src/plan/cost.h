// Prices a level by making the tiles at sample positions. Called by the level search.
#pragma once

#include "plan/level.h"

namespace longstride::plan {

// Columns a row of the class, whether the row is touched or not, in the currency of Geometry.
struct LevelPrice {
  double as_partial = 0;  // merging included; untouched rows cost nothing
  double as_base = 0;
};

// Deterministic. Rows beyond the last document are not sampled.
LevelPrice price(const LevelShape&, const Scope&, const Documents&);

}  // namespace longstride::plan
