// The distance or window that comes nearest to a density of blocks, and densities that cannot be had. Called by the
// rules of the block patterns.
#pragma once

#include <cstdint>

#include "pattern/block_rows.h"

namespace longstride::pattern {

// Block pairs that there are.
double pairs_in_all(const Place&);

// Throws Error if `density` is out of reach where from `least` to `most` block pairs can be had: half a block is
// rounding.
void check_density(const Place&, double density, double least, double most);

// The number n of distances step, 2 * step, ..., n * step that comes nearest to a density, the diagonal included.
int64_t nearest_reach(const Place&, double density, int64_t step);

}  // namespace longstride::pattern
