// In which order a launch takes the tiles of a plan: lanes of sections, in host memory. Pure; upload.cc copies them.
//
// A lane is a head's tiles, one head after the other, so that tiles which run side by side share K and V. But a tile
// that takes long by itself (a global column in the backward, a strided one) must not begin when the others are nearly
// done: the long tiles of all heads come first, where a launch is few of them long from the longest down. And where it
// is few tiles long, the shortest ones of all heads come last, so that the processors end together.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda {

// The lanes of one launch: of partial levels or of base levels, all of them or as many as have kMostStrides strides.
struct LaunchOrder {
  static constexpr int kMostStrides = 8;  // a launch is given the tensor maps of so many
  std::vector<Lane> lanes;
  std::vector<int64_t> strides;  // Lane::map indexes it
  bool merges_only = true;       // no tile has runs
  double columns = 0;            // in the blocks of all items
  // More than one tile a processor, of few columns: what they wait for takes longer than what they compute.
  bool short_tiles = false;
};

struct PlanOrder {
  std::vector<Section> sections;  // those of the plan, some cut in parts; lanes index them
  std::vector<int32_t> tiles;     // which tile of the plan stands where: a section's tiles are in an order of their own
  std::vector<LaunchOrder> partial, base;
};

// `group`: query heads an item. A tile is long if it takes more than a sixteenth of what `processors` of them take for
// the whole launch: begun last it would keep the others waiting for that long.
PlanOrder order_of(const PlanView&, int64_t batch, int64_t kv_heads, int64_t group, int32_t processors);

}  // namespace longstride::engine::cuda
