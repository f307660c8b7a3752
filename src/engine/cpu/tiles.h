// The executed tiles of a level, numbered in the order in which they should start. Called by forward.cc and
// backward.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "longstride/plan/walk.h"

namespace longstride::engine::cpu {

class LevelTiles {
 public:
  LevelTiles(const PlanView& plan, const Level& level) : plan_(plan), level_(level) {
    ends_.reserve(static_cast<size_t>(level.section_count));
    for (const Section& section : plan.sections_of(level)) {
      count_ += section.tile_count * section.repeats;
      ends_.push_back(count_);
    }
  }

  int64_t count() const { return count_; }

  PlacedTile operator[](int64_t i) const {
    const auto s = std::upper_bound(ends_.begin(), ends_.end(), i) - ends_.begin();
    const Section& section = plan_.sections[level_.section_begin + s];
    const int64_t in_section = i - (s > 0 ? ends_[s - 1] : 0);
    const int64_t repeat = in_section / section.tile_count;
    const int64_t t = in_section % section.tile_count;
    return {&level_, &plan_.tiles[section.tile_begin + t], repeat, repeat * section.shift,
            section.slot_begin + in_section * plan_.tile_rows};
  }

 private:
  const PlanView& plan_;
  const Level& level_;
  std::vector<int64_t> ends_;
  int64_t count_ = 0;
};

// Whether a level with parts of tiles keeps rows in this slot.
inline bool keeps_parts(const PlanView& plan, const PlanClass& c, int64_t slot) {
  for (const Level& level : plan.levels_of(c)) {
    if (level.parts == Parts::kNone) continue;
    for (const Section& s : plan.sections_of(level)) {
      if (slot >= s.slot_begin && slot < s.slot_begin + s.repeats * s.tile_count * plan.tile_rows) return true;
    }
  }
  return false;
}

}  // namespace longstride::engine::cpu
