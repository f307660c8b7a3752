// Cuts the sections of a plan into tiles that take long, that do not, and that are there to fill the end of a launch,
// and lays them out as lanes.
#include "engine/cuda/lanes.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace longstride::engine::cuda {
namespace {

// The bands of a launch: tiles that take long, from the longest down, those of one band alike; the others; those that
// fill its end.
constexpr int kLongBands = 8;
constexpr double kAlike = 0.7;
constexpr int kBands = kLongBands + 2;

// A tile takes long if it takes so much of what all processors take for the launch; less, where none fill its end.
constexpr double kLong = 1.0 / 16, kLongUnfilled = 1.0 / 64;
// A launch that takes less than so many of its longest tiles has its long ones in bands; a longer one has time to even
// out, and is quicker if a head's tiles stay together (dense, 16,384 tokens, causal, backward: 4 % on an H200).
constexpr double kFewLong = 6;
// What a tile takes beside its blocks of columns, in such blocks.
constexpr double kTile = 2.5;
// A launch that takes less than so many of its longest tiles, one after the other, has its shortest tiles last: as many
// as keep every processor busy for so much of the longest. Longer ones end together anyway, and would read keys twice.
constexpr double kFewTiles = 16;
constexpr double kShortShare = 0.25;
// But no more than so many a processor, since the shortest wait for memory if all compute such at once (strided
// columns, backward: 2 % slower), and none where tiles are about alike: heads would come twice for nothing (batches of
// short sequences, backward: 7 % slower).
constexpr double kMostShort = 16;
constexpr double kShort = 0.5;

// A launch whose tiles have no more columns on average has short tiles. At dim 64 an H200's kernel for them takes about
// 3 us for a tile and 1.4 for every 128 keys, the other 4.4 and 1.2; dense, both take the same at 512 columns.
constexpr double kShortColumns = 4 * 128;

// What it takes to compute a tile, in blocks of columns.
double time_of(const PlanView& plan, const Tile& tile) {
  double blocks = kTile;
  for (const Run& run : plan.runs_of(tile)) {
    const int64_t begin = std::max<int64_t>(0, run.row_begin + run.begin_diagonal(plan.direction));
    const int64_t end = std::min(run.columns, run.row_end - 1 + run.end_diagonal(plan.direction));
    if (begin < end)
      blocks += static_cast<double>((end - begin + plan.column_block - 1) / plan.column_block * run.residues);
  }
  return blocks;
}

// Tiles that take longer than above[n] are of long band n or one before it, those that take no longer than `below` come
// last.
struct Limits {
  double above[kLongBands] = {};
  double below = 0;
};

// Of one launch: partial levels, or base levels. `group`: query heads an item.
Limits limits_of(const PlanView& plan, const std::vector<double>& of_tile, bool partial, int64_t group,
                 int32_t processors) {
  std::vector<double> heads_of(plan.classes.size());  // that have each class
  for (const int32_t c : plan.class_of) heads_of[c] += static_cast<double>(group);
  struct Some {
    double time, count;
  };
  std::vector<Some> tiles;
  double total = 0, longest = 0;
  for (size_t c = 0; c < plan.classes.size(); ++c) {
    for (const Level& level : plan.levels_of(plan.classes[c])) {
      if (level.partial != partial) continue;
      for (const Section& section : plan.sections_of(level))
        for (int64_t n = section.tile_begin; n < section.tile_begin + section.tile_count; ++n) {
          const Some some{of_tile[n], heads_of[c] * static_cast<double>(section.repeats)};
          tiles.push_back(some);
          total += some.time * some.count;
          longest = std::max(longest, some.time);
        }
    }
  }
  Limits limits;
  const auto bands_above = [&](double share) {
    const double least = share * total / processors;
    double above = total > kFewLong * longest * processors ? 0 : kAlike * longest;
    for (int band = 0; band + 1 < kLongBands; ++band, above *= kAlike) limits.above[band] = std::max(above, least);
    limits.above[kLongBands - 1] = least;
  };
  bands_above(kLong);
  if (total > kFewTiles * longest * processors) return limits;
  std::sort(tiles.begin(), tiles.end(), [](const Some& a, const Some& b) { return a.time < b.time; });
  double left = kShortShare * longest * processors, count = 0;
  bool filled = false;
  for (auto some = tiles.begin(); some != tiles.end() && left > 0;) {
    const double time = some->time;  // those that take as long go with it, or none does
    for (; some != tiles.end() && some->time == time; ++some) {
      left -= time * some->count;
      count += some->count;
    }
    if (count > kMostShort * processors || time > kShort * longest) break;
    limits.below = time;
    filled = left <= 0;
  }
  if (!filled) bands_above(kLongUnfilled);
  return limits;
}

// Of PlanOrder::sections: those of a level that come first, then, last.
struct CutLevel {
  int32_t begin = 0;
  int32_t counts[kBands] = {};
  double columns[kBands] = {};  // of their tiles
  bool has_runs = false;
};

class Cutter {
 public:
  Cutter(const PlanView& plan, const std::vector<double>& of_tile, PlanOrder& to)
      : plan_(plan), of_tile_(of_tile), to_(to) {}

  CutLevel cut(const Level& level, const Limits& limits) {
    CutLevel result{.begin = static_cast<int32_t>(to_.sections.size())};
    std::vector<Section> bands[kBands];
    for (Section left : plan_.sections_of(level)) {
      for (const Tile& tile : plan_.tiles_of(left)) result.has_runs = result.has_runs || tile.run_count > 0;
      // Slots of repeats interleave, so they stay together; and those of partial levels follow from a tile's place.
      const bool whole = left.repeats > 1;
      if (!whole && !level.partial) put_short_ones_last(left, limits.below);
      int64_t begin = 0;
      const std::array<int64_t, kBands> ends = ends_of(left, limits, whole);
      for (int band = 0; band < kBands; ++band) {
        if (ends[band] == begin) continue;
        bands[band].push_back(left);
        bands[band].back().tile_count = ends[band] - begin;
        bands[band].back().tile_begin += begin;
        bands[band].back().slot_begin += begin * plan_.tile_rows;
        for (; begin < ends[band]; ++begin)
          result.columns[band] += (time(left, begin) - kTile) * plan_.column_block * static_cast<double>(left.repeats);
      }
    }
    for (int band = 0; band < kBands; ++band) {
      to_.sections.insert(to_.sections.end(), bands[band].begin(), bands[band].end());
      result.counts[band] = static_cast<int32_t>(bands[band].size());
    }
    return result;
  }

 private:
  double time(const Section& section, int64_t n) const { return of_tile_[to_.tiles[section.tile_begin + n]]; }

  // Where the bands of a section end; of a `whole` one only one has tiles, that of its longest.
  std::array<int64_t, kBands> ends_of(const Section& section, const Limits& limits, bool whole) const {
    constexpr int kOthers = kLongBands, kLast = kBands - 1;
    std::array<int64_t, kBands> ends = {};
    for (int64_t n = 0; n < section.tile_count; ++n) {
      const auto band = std::find_if(limits.above, limits.above + kLongBands,
                                     [&](double above) { return time(section, n) > above; }) -
                        limits.above;
      if (band < kLongBands) ends[band] = n + 1;
    }
    for (int band = 1; band < kLongBands; ++band) ends[band] = std::max(ends[band], ends[band - 1]);
    ends[kOthers] = ends[kLast] = section.tile_count;
    const int64_t longs = ends[kLongBands - 1];
    while (ends[kOthers] > longs && time(section, ends[kOthers] - 1) <= limits.below) --ends[kOthers];
    if (!whole) return ends;
    const auto longest = std::find_if(ends.begin(), ends.end(), [](int64_t end) { return end > 0; });
    std::fill(longest, ends.end(), section.tile_count);
    return ends;
  }

  void put_short_ones_last(const Section& section, double below) {
    const auto begin = to_.tiles.begin() + section.tile_begin;
    std::stable_partition(begin, begin + section.tile_count, [&](int32_t tile) { return of_tile_[tile] > below; });
  }

  const PlanView& plan_;
  const std::vector<double>& of_tile_;
  PlanOrder& to_;
};

// The first launch that has this stride, or has room for it.
LaunchOrder& launch_of(std::vector<LaunchOrder>& launches, int64_t stride, int32_t& map) {
  for (LaunchOrder& launch : launches) {
    auto& strides = launch.strides;
    const auto found = std::find(strides.begin(), strides.end(), stride);
    map = static_cast<int32_t>(found - strides.begin());
    if (found != strides.end()) return launch;
    if (map == LaunchOrder::kMostStrides) continue;
    strides.push_back(stride);
    return launch;
  }
  map = 0;
  return launches.emplace_back(LaunchOrder{.strides = {stride}});
}

}  // namespace

PlanOrder order_of(const PlanView& plan, int64_t batch, int64_t kv_heads, int64_t group, int32_t processors) {
  std::vector<double> of_tile;
  of_tile.reserve(plan.tiles.size());
  for (const Tile& tile : plan.tiles) of_tile.push_back(time_of(plan, tile));
  PlanOrder order;
  order.tiles.resize(plan.tiles.size());
  std::iota(order.tiles.begin(), order.tiles.end(), 0);
  Cutter cutter(plan, of_tile, order);
  const Limits limits[] = {limits_of(plan, of_tile, false, group, processors),
                           limits_of(plan, of_tile, true, group, processors)};
  std::vector<CutLevel> levels;
  levels.reserve(plan.levels.size());
  for (const Level& level : plan.levels) levels.push_back(cutter.cut(level, limits[level.partial]));
  for (int band = 0; band < kBands; ++band) {
    for (int64_t place = 0; place < batch * kv_heads; ++place) {
      const PlanClass& c = plan.classes[plan.class_of[place]];
      for (int32_t n = c.level_begin; n < c.level_begin + c.level_count; ++n) {
        const CutLevel& level = levels[n];
        const int32_t begin = std::accumulate(level.counts, level.counts + band, level.begin);
        int64_t tiles = 0;
        for (int32_t s = begin; s < begin + level.counts[band]; ++s)
          tiles += order.sections[s].tile_count * order.sections[s].repeats;
        if (tiles == 0) continue;
        int32_t map = 0;
        LaunchOrder& launch =
            launch_of(plan.levels[n].partial ? order.partial : order.base, plan.levels[n].stride, map);
        launch.merges_only = launch.merges_only && !level.has_runs;
        launch.columns += level.columns[band] * static_cast<double>(group);
        const int64_t before = launch.lanes.empty() ? 0 : launch.lanes.back().item_end;
        launch.lanes.push_back({before + tiles * group, plan.levels[n].stride, begin, level.counts[band],
                                static_cast<int32_t>(place / kv_heads), static_cast<int32_t>(place % kv_heads), map});
      }
    }
  }
  for (auto* launches : {&order.partial, &order.base}) {
    for (LaunchOrder& launch : *launches) {
      const int64_t items = launch.lanes.back().item_end;
      launch.short_tiles = items > processors && launch.columns <= kShortColumns * static_cast<double>(items);
    }
  }
  return order;
}

}  // namespace longstride::engine::cuda
