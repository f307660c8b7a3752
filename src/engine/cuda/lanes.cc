// Cuts the sections of a plan at their last long tile and lays them out as lanes.
#include "engine/cuda/lanes.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace longstride::engine::cuda {
namespace {

// Tiles that take more than this of a launch, less than that but more than the next, ..., and the rest. One limit of a
// sixteenth left a strided causal backward, whose tiles take up to a quarter of it, a tail of a fifth.
constexpr double kShares[] = {1.0 / 8, 1.0 / 16, 1.0 / 32};
constexpr int kBands = std::size(kShares) + 1;

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

using Limits = std::array<double, kBands - 1>;

struct CutLevel {
  std::array<int32_t, kBands + 1> begin;  // of each band among PlanOrder::sections
};

// Tiles [from, to) of a section. Slots of repeats interleave: a section that repeats is taken whole.
Section part(const Section& section, int64_t from, int64_t to, int32_t tile_rows) {
  Section result = section;
  result.tile_begin += from;
  result.tile_count = to - from;
  result.slot_begin += from * tile_rows;
  return result;
}

CutLevel cut(const PlanView& plan, const Level& level, const std::vector<double>& of_tile, const Limits& limits,
             std::vector<Section>& to) {
  std::array<std::vector<Section>, kBands> bands;
  for (const Section& section : plan.sections_of(level)) {
    int64_t taken = 0;
    for (int band = 0; band < kBands; ++band) {
      int64_t end = band < kBands - 1 ? taken : section.tile_count;  // up to the last tile that is so long
      for (int64_t n = end; n < section.tile_count; ++n)
        if (of_tile[section.tile_begin + n] > limits[band]) end = n + 1;
      if (end > taken && section.repeats > 1) end = section.tile_count;
      if (end > taken) bands[band].push_back(part(section, taken, end, plan.tile_rows));
      taken = end;
    }
  }
  CutLevel result;
  for (int band = 0; band < kBands; ++band) {
    result.begin[band] = static_cast<int32_t>(to.size());
    to.insert(to.end(), bands[band].begin(), bands[band].end());
  }
  result.begin[kBands] = static_cast<int32_t>(to.size());
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
  Limits limits[2];
  for (const bool partial : {false, true}) {
    const double all = blocks_of_launch(plan, of_tile, partial) * static_cast<double>(group) / processors;
    for (int band = 0; band < kBands - 1; ++band) limits[partial][band] = kShares[band] * all;
  }
  PlanOrder order;
  std::vector<CutLevel> levels;
  for (const Level& level : plan.levels)
    levels.push_back(cut(plan, level, of_tile, limits[level.partial], order.sections));
  for (int band = 0; band < kBands; ++band) {
    for (int64_t place = 0; place < batch * kv_heads; ++place) {
      const PlanClass& c = plan.classes[plan.class_of[place]];
      for (int32_t n = c.level_begin; n < c.level_begin + c.level_count; ++n) {
        const int32_t begin = levels[n].begin[band], end = levels[n].begin[band + 1];
        int64_t tiles = 0;
        for (int32_t s = begin; s < end; ++s) tiles += order.sections[s].tile_count * order.sections[s].repeats;
        if (tiles == 0) continue;
        int32_t map = 0;
        LaunchOrder& launch =
            launch_of(plan.levels[n].partial ? order.partial : order.base, plan.levels[n].stride, map);
        const int64_t before = launch.lanes.empty() ? 0 : launch.lanes.back().item_end;
        launch.lanes.push_back({before + tiles * group, plan.levels[n].stride, begin, end - begin,
                                static_cast<int32_t>(place / kv_heads), static_cast<int32_t>(place % kv_heads), map});
      }
    }
  }
  return order;
}

}  // namespace longstride::engine::cuda
