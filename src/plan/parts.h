// Cuts the long tiles of a level into parts. Called by the class writer when the tiles of the level stand in their
// order, before they have slots and merges.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/plan.h"
#include "plan/level.h"

namespace longstride::plan {

// The level that was written last: its tiles and runs are the plan's last ones.
struct WrittenLevel {
  int64_t stride = 1;
  bool partial = false;
  std::vector<Section> sections;
  size_t run_begin = 0;
  double longest = 0;  // what its longest tile takes, and all of them; only where geometry.workers > 1
  double total = 0;
};

// Whether a tile was cut. Parts of a partial level's tiles stand in their tiles' places, and its sections hold more
// tiles; those of a base level's are appended to the plan, and `of_base` gets a section for each of the level's, which
// may be empty.
bool cut_long_tiles(WrittenLevel& level, const Scope& scope, Plan& plan, std::vector<Section>& of_base);

}  // namespace longstride::plan
