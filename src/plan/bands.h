// The block patterns of one class as rows of tokens: their union, cut to the rows and columns of a plan, transposed if
// the plan is, and where its tiles should end. Called by compile(), by the level search and by the planner of ranks.
#pragma once

#include <cstdint>
#include <vector>

#include "pattern/block_rows.h"
#include "plan/classes.h"

namespace longstride::plan {

struct Scope;

// Rows [row_begin, row_end) see the columns of intervals [interval_begin, interval_end): disjoint, ascending, not
// adjacent. Causal pairs are hidden beyond what the intervals say.
struct Band {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t interval_begin = 0;
  int64_t interval_end = 0;
};

// Bands are disjoint and ascending; neighbours differ. Rows of no band see nothing.
struct Bands {
  std::vector<Band> bands;
  std::vector<pattern::Interval> intervals;
};

// Of a class of a pattern that has block patterns and does not slide (rectangles.h). Throws Error if a density cannot
// be reached.
Bands make_bands(const Pattern&, const ClassSpec&, const Scope&);

// Positions at which tiles of stride 1 should end: where a band begins that would cost more in the tile at hand than in
// one of its own.
std::vector<int64_t> band_cuts(const Bands&, const Scope&);

}  // namespace longstride::plan
