// What compile() is asked to plan, and the shape and price of one level: the words that the planner's files share.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "longstride/plan.h"
#include "plan/bands.h"
#include "plan/classes.h"
#include "plan/rectangles.h"

namespace longstride::plan {

// Rows and columns that exist, as positions, and what decides which pairs of them are seen.
struct Scope {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
  bool causal = false;
  bool zero_keys = false;
  bool transposed = false;
  int64_t sliding_unit = 0;  // not 0: block patterns are rectangles in blocks of so many tokens, not bands
  Geometry geometry;
};

// Residues of a fused level are handled as the bits of one word; wider levels hold one group each.
inline constexpr int64_t kMostFusedStride = 64;

struct LevelShape {
  std::vector<Sampling> samplings;
  int64_t stride = 1;
  // Tiles end where a segment of at least this many tokens ends, and between documents that are both at least as long.
  // Shorter ones share tiles by ranges of rows.
  int64_t cut_segment = 0;
  // The block patterns of the class, in the base level of stride 1 that they make, and where its tiles end for them.
  std::shared_ptr<const Bands> bands;
  std::vector<int64_t> cuts;  // ascending
  // In place of bands and samplings, in a base level whose stride is their unit.
  std::shared_ptr<const Rectangles> rectangles;
};

// Whether no segment has a second sample, so that any stride serves.
inline bool samples_once(const Sampling& s) { return s.offset >= s.segment || s.rate >= s.segment - s.offset; }

// The least stride that serves all samplings, or 0 if they cannot share a level.
int64_t fused_stride(const std::vector<Sampling>& samplings);

// Columns a row of the class, whether the row is touched or not, in the currency of Geometry. Merging is not included.
struct LevelPrice {
  double as_partial = 0;  // untouched rows cost nothing
  double as_base = 0;
  double touched = 0;  // the share of rows that a partial level would hold
  // What tiles and runs take, a row of the class; a period counts as if it were stored every time.
  double partial_bytes = 0;
  double base_bytes = 0;
};

// By making the tiles at sample positions (cost.cc). Deterministic. Rows beyond the last document are not sampled.
LevelPrice price(const LevelShape&, const Scope&, const Documents&);

}  // namespace longstride::plan
