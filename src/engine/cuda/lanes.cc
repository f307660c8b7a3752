// Cuts the sections of a plan at their last long tile and lays them out as lanes.
#include "engine/cuda/lanes.h"

#include <algorithm>

namespace longstride::engine::cuda {
namespace {

// Further limits, of an eighth and a thirty-second, made nothing quicker on an H200.
constexpr double kLong = 1.0 / 16;

// Blocks of columns that a tile's runs have.
double blocks_of(const PlanView& plan, const Tile& tile) {
  double blocks = 0;
  for (const Run& run : plan.runs_of(tile)) {
    const int64_t begin = std::max<int64_t>(0, run.row_begin + run.begin_diagonal(plan.direction));
    const int64_t end = std::min(run.columns, run.row_end - 1 + run.end_diagonal(plan.direction));
    if (begin < end)
      blocks += static_cast<double>((end - begin + plan.column_block - 1) / plan.column_block * run.residues);
  }
  return blocks;
}

// Of one launch: partial levels, or base levels.
double blocks_of_launch(const PlanView& plan, const std::vector<double>& of_tile, bool partial) {
  std::vector<double> of_class;
  for (const PlanClass& c : plan.classes) {
    of_class.push_back(0);
    for (const Level& level : plan.levels_of(c)) {
      if (level.partial != partial) continue;
      for (const Section& section : plan.sections_of(level))
        for (int64_t n = 0; n < section.tile_count; ++n)
          of_class.back() += of_tile[section.tile_begin + n] * static_cast<double>(section.repeats);
    }
  }
  double blocks = 0;
  for (const int32_t c : plan.class_of) blocks += of_class[c];
  return blocks;
}

struct CutLevel {
  int32_t begin = 0, long_count = 0, count = 0;  // of PlanOrder::sections; the long ones first
  bool has_runs = false;
};

CutLevel cut(const PlanView& plan, const Level& level, const std::vector<double>& of_tile, double longest,
             std::vector<Section>& to) {
  CutLevel result{.begin = static_cast<int32_t>(to.size())};
  std::vector<Section> rest;
  for (const Section& section : plan.sections_of(level)) {
    for (const Tile& tile : plan.tiles_of(section)) result.has_runs = result.has_runs || tile.run_count > 0;
    int64_t count = 0;  // up to the last long tile
    for (int64_t n = 0; n < section.tile_count; ++n)
      if (of_tile[section.tile_begin + n] > longest) count = n + 1;
    if (count > 0 && section.repeats > 1) count = section.tile_count;  // slots of repeats interleave
    Section first = section, second = section;
    first.tile_count = count;
    second.tile_begin += count;
    second.tile_count -= count;
    second.slot_begin += count * plan.tile_rows;
    if (first.tile_count > 0) to.push_back(first);
    if (second.tile_count > 0) rest.push_back(second);
  }
  result.long_count = static_cast<int32_t>(to.size()) - result.begin;
  to.insert(to.end(), rest.begin(), rest.end());
  result.count = static_cast<int32_t>(to.size()) - result.begin;
  return result;
}

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
  for (const Tile& tile : plan.tiles) of_tile.push_back(blocks_of(plan, tile));
  double longest[2];
  for (const bool partial : {false, true})
    longest[partial] = kLong * blocks_of_launch(plan, of_tile, partial) * static_cast<double>(group) / processors;
  PlanOrder order;
  std::vector<CutLevel> levels;
  for (const Level& level : plan.levels)
    levels.push_back(cut(plan, level, of_tile, longest[level.partial], order.sections));
  for (const bool are_long : {true, false}) {
    for (int64_t place = 0; place < batch * kv_heads; ++place) {
      const PlanClass& c = plan.classes[plan.class_of[place]];
      for (int32_t n = c.level_begin; n < c.level_begin + c.level_count; ++n) {
        const CutLevel& level = levels[n];
        const int32_t begin = level.begin + (are_long ? 0 : level.long_count);
        const int32_t count = are_long ? level.long_count : level.count - level.long_count;
        int64_t tiles = 0;
        for (int32_t s = begin; s < begin + count; ++s)
          tiles += order.sections[s].tile_count * order.sections[s].repeats;
        if (tiles == 0) continue;
        int32_t map = 0;
        LaunchOrder& launch =
            launch_of(plan.levels[n].partial ? order.partial : order.base, plan.levels[n].stride, map);
        launch.merges_only = launch.merges_only && !level.has_runs;
        const int64_t before = launch.lanes.empty() ? 0 : launch.lanes.back().item_end;
        launch.lanes.push_back({before + tiles * group, plan.levels[n].stride, begin, count,
                                static_cast<int32_t>(place / kv_heads), static_cast<int32_t>(place % kv_heads), map});
      }
    }
  }
  return order;
}

}  // namespace longstride::engine::cuda
