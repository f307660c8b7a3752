// Densities of blocks, counted in block pairs. Called by the rules of the block patterns.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/refuse.h"
#include "pattern/block_rows.h"

namespace longstride::pattern {
namespace {

// Blocks on the two (causal: one) diagonals at a distance.
int64_t pairs_at(const Place& place, int64_t distance) {
  return std::max<int64_t>(0, place.blocks - distance) * (place.causal ? 1 : 2);
}

[[noreturn]] void refuse_density(const Place& place, double density, double least, double most) {
  const double all = pairs_in_all(place);
  core::refuse(
      "density",
      fmt::format("must be in [{:.4g}, {:.4g}] on {} x {} blocks{}", least / all, most / all, place.blocks,
                  place.blocks, place.causal ? " (causal)" : ""),
      fmt::format("{:.4g}", density),
      fmt::format("the nearest that can be reached is {:.6g} (sparsity_ratio {:.6g}); smaller blocks reach "
                  "lower densities",
                  (density * all < least ? least : most) / all, 1 - (density * all < least ? least : most) / all));
}

}  // namespace

double pairs_in_all(const Place& place) {
  const double nb = place.blocks;
  return place.causal ? nb * (nb + 1) / 2 : nb * nb;
}

void check_density(const Place& place, double density, double least, double most) {
  if (!place.strict || place.blocks < 2) return;
  const double asked = density * pairs_in_all(place);
  if (asked < least - 0.5 || asked > most + 0.5) refuse_density(place, density, least, most);
}

int64_t nearest_reach(const Place& place, double density, int64_t step) {
  const int64_t most_steps = place.blocks > 0 ? (place.blocks - 1) / step : 0;
  const double asked = density * pairs_in_all(place);
  int64_t pairs = place.blocks, reach = 0, best = 0;
  double off = std::abs(pairs - asked);
  while (reach < most_steps) {
    pairs += pairs_at(place, ++reach * step);
    const double now = std::abs(pairs - asked);
    if (now < off) {
      off = now;
      best = reach;
    }
    if (pairs >= asked && !place.strict) break;
  }
  check_density(place, density, place.blocks, pairs);
  return best;
}

}  // namespace longstride::pattern
