// Compares schedules: the level as it is, and cut into parts of a few sizes.
#include "plan/division.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <vector>

#include "plan/run_cost.h"

namespace longstride::plan {
namespace {

// A level within a tenth of what its workers could do at best is left alone, and so is one that parts would not bring a
// tenth.
constexpr double kWorthIt = 0.1;
// But where few tiles, of one worker in two at most, take almost as long as all workers for everything, they bound a
// base level whatever the order: its workers are a share rounded down, and have more time than they say. Parts that
// take no more than this longer are made.
constexpr double kBinding = 0.95;
constexpr double kMostMore = 0.02;
// A tile a twentieth longer than n parts makes n parts.
constexpr double kLonger = 0.05;

// When the last worker is done, if each takes the next item whenever it is free.
class Schedule {
 public:
  explicit Schedule(int32_t workers) {
    for (int32_t i = 0; i < workers; ++i) free_at_.push(0);
  }
  void add(double cost, int64_t times) {
    for (int64_t n = 0; n < times; ++n) {
      const double end = free_at_.top() + cost;
      free_at_.pop();
      free_at_.push(end);
      end_ = std::max(end_, end);
    }
  }
  double end() const { return end_; }

 private:
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at_;
  double end_ = 0;
};

double end_of(const Division& division, std::span<const TileCost> tiles, bool partial, const Geometry& geometry) {
  const double part_price = geometry.part_columns * geometry.tile_rows;
  const double tile_price = fixed_price(0, geometry);
  Schedule parts(geometry.workers), rest(geometry.workers);
  double merging = 0;
  for (const TileCost& tile : tiles) {
    const int64_t n = division.parts(tile.cost);
    const double part = tile.cost / n;
    if (n == 1) {
      (partial ? parts : rest).add(tile.cost, tile.repeats);
      continue;
    }
    const int64_t kept = partial || division.base_keeps ? 1 : 0;
    const double merged = tile.rows * geometry.merge_columns * (n - kept);
    parts.add(part + part_price, tile.repeats * (partial ? n : n - kept));
    if (partial) {
      merging += merged * tile.repeats;
    } else {
      rest.add((division.base_keeps ? part : tile_price) + merged, tile.repeats);
    }
  }
  if (partial) return parts.end() + merging / geometry.workers;
  return parts.end() + part_price + rest.end();  // the workers wait for each other once more
}

}  // namespace

int64_t Division::parts(double cost) const {
  return part_cost > 0 ? std::max<int64_t>(1, static_cast<int64_t>(std::ceil(cost / part_cost - kLonger))) : 1;
}

// The last worker is done at most one tile after the best that workers could do.
bool may_divide(double longest, double total, const Geometry& geometry) {
  return geometry.workers > 1 && longest > kWorthIt * total / geometry.workers;
}

Division divide(std::span<const TileCost> tiles, bool partial, const Geometry& geometry) {
  double total = 0, longest = 0;
  Schedule whole(geometry.workers);
  for (const TileCost& tile : tiles) {
    total += tile.cost * tile.repeats;
    longest = std::max(longest, tile.cost);
    whole.add(tile.cost, tile.repeats);
  }
  const double at_best = total / geometry.workers;
  int64_t long_ones = 0;
  for (const TileCost& tile : tiles) long_ones += tile.cost > longest / 2 ? tile.repeats : 0;
  const bool even = whole.end() <= (1 + kWorthIt) * at_best;
  const bool bound = even && !partial && longest > kBinding * at_best && 2 * long_ones <= geometry.workers;
  if (even && !bound) return {};
  const bool alone = tiles.size() == 1 && tiles[0].repeats == 1;  // a decoding step: as many parts as workers it is
  Division best;
  double best_end = (bound ? 1 + kMostMore : 1 - kWorthIt) * whole.end();
  for (const int parts_a_worker : {1, 2, 4}) {
    if (alone && parts_a_worker > 1) continue;
    for (const bool base_keeps : {false, true}) {
      if (base_keeps && (partial || alone)) continue;
      const Division division{at_best / parts_a_worker, base_keeps};
      if (division.parts(longest) == 1) continue;
      const double end = end_of(division, tiles, partial, geometry);
      if (end < best_end) {
        best = division;
        best_end = end;
      }
    }
  }
  return best;
}

}  // namespace longstride::plan
