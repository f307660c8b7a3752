// What two arithmetic progressions have in common, and what is left of one when positions are taken out of it, as
// progressions again. Called by the needs of a rank, so that no row travels twice, and by its slice.
#pragma once

#include <span>
#include <vector>

#include "longstride/pattern/sight.h"
#include "pattern/block_rows.h"

namespace longstride::parallel {

// Appends the members that lie in none of the intervals, which are disjoint and ascending.
void append_outside(const Progression&, std::span<const pattern::Interval> holes, std::vector<Progression>& out);

// The members of both. Of a single one the step is the first one's.
Progression common(const Progression&, const Progression&);

// Appends the members that `other` has not. Steps that divide one another give at most two progressions, others as many
// as there are members in common, or residues, whichever is less.
void append_without(const Progression&, const Progression& other, std::vector<Progression>& out);

}  // namespace longstride::parallel
