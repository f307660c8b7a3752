// Decides whether the long tiles of a level are cut into parts, by when the last of the engine's workers would be done.
// Called by parts.cc.
#pragma once

#include <cstdint>
#include <span>

#include "longstride/plan.h"

namespace longstride::plan {

// A stored tile, in the currency of Geometry: pairs.
struct TileCost {
  double cost = 0;
  double rows = 0;  // that its runs serve, each run counting as much as it costs: the rows that a part will have
  int64_t repeats = 1;
};

struct Division {
  double part_cost = 0;     // of a part, about; 0: no tile is cut
  bool base_keeps = false;  // a base tile keeps its first part; else it has no runs left, and merges

  // Into how many parts a tile is cut; 1: it stays whole.
  int64_t parts(double cost) const;
};

// Whether divide() need be asked: not if the last worker is done soon anyway, whoever takes what. `longest` tile of a
// level, and what all take.
bool may_divide(double longest, double total, const Geometry&);

// `tiles` in the order in which they are started. `partial`: of a partial level, where parts stand in place of their
// tile; those of a base level make a level of their own, which is done before it begins.
Division divide(std::span<const TileCost> tiles, bool partial, const Geometry&);

}  // namespace longstride::plan
