// The executed tiles of a level, numbered in the order in which they should start. Called by forward.cc and
// backward.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "longstride/plan.h"

namespace longstride::engine::cpu {

struct TileAt {
  const Tile* tile = nullptr;
  int64_t shift = 0;   // added to every position
  int64_t repeat = 0;  // which repeat of the section
  int64_t slot = 0;    // partial levels: the slot of row 0
};

class LevelTiles {
 public:
  LevelTiles(const PlanView& plan, const Level& level) : plan_(plan), level_(level) {
    ends_.reserve(static_cast<size_t>(level.section_count));
    for (int32_t s = 0; s < level.section_count; ++s) {
      const Section& section = plan.sections[level.section_begin + s];
      count_ += section.tile_count * section.repeats;
      ends_.push_back(count_);
    }
  }

  int64_t count() const { return count_; }

  TileAt operator[](int64_t i) const {
    const auto s = std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin();
    const Section& section = plan_.sections[level_.section_begin + s];
    const int64_t in_section = i - (s > 0 ? ends_[s - 1] : 0);
    const int64_t repeat = in_section / section.tile_count;
    const int64_t t = in_section % section.tile_count;
    return {&plan_.tiles[section.tile_begin + t], repeat * section.shift, repeat,
            section.slot_begin + in_section * plan_.tile_rows};
  }

 private:
  const PlanView& plan_;
  const Level& level_;
  std::vector<int64_t> ends_;
  int64_t count_ = 0;
};

}  // namespace longstride::engine::cpu
