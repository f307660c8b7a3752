// Prices a level by making the tiles at sample positions. Called by the level search.
#pragma once

#include "plan/level.h"

namespace longstride::plan {

// Columns a row of the class, whether the row is touched or not, in the currency of Geometry. Merging is not included.
struct LevelPrice {
  double as_partial = 0;  // untouched rows cost nothing
  double as_base = 0;
  double touched = 0;  // the share of rows that a partial level would hold
  // What tiles and runs take, a row of the class; a period counts as if it were stored every time.
  double partial_bytes = 0;
  double base_bytes = 0;
};

// Deterministic. Rows beyond the last document are not sampled.
LevelPrice price(const LevelShape&, const Scope&, const Documents&);

}  // namespace longstride::plan
