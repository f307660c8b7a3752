// Connects the tiles of a base level with the partial results that wait for their rows. Called by compile(), section by
// section, when the tiles of all levels stand in their order.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/plan.h"

namespace longstride::plan {

// A section and the stride of its level.
struct SectionOfLevel {
  Section section;
  int64_t stride = 1;
};

// Appends to plan.merges and points the base section's tiles at them. All sections span the same rows and repeat alike;
// every row of the partial ones must be a row of the base one.
void link_merges(const SectionOfLevel& base, const std::vector<SectionOfLevel>& partials, Plan& plan);

}  // namespace longstride::plan
