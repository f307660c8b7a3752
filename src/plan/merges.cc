// Intersects the rows of partial tiles with those of base tiles: both are arithmetic progressions.
#include "plan/merges.h"

#include <algorithm>
#include <numeric>

namespace longstride::plan {

void link_merges(const SectionOfLevel& base, const std::vector<SectionOfLevel>& partials, Plan& plan) {
  if (partials.empty()) return;
  const int64_t base_stride = base.stride;
  Tile* const tiles = plan.tiles.data() + base.section.tile_begin;
  // The base's tiles by line (residue of its stride), along each line by position.
  struct Place {
    int64_t line, row0;
    int32_t tile;
  };
  std::vector<Place> places;
  places.reserve(base.section.tile_count);
  for (int64_t t = 0; t < base.section.tile_count; ++t) {
    places.push_back({tiles[t].row0 % base_stride, tiles[t].row0, static_cast<int32_t>(t)});
  }
  const auto before = [](const Place& a, const Place& b) {
    return a.line != b.line ? a.line < b.line : a.row0 < b.row0;
  };
  std::sort(places.begin(), places.end(), before);

  std::vector<std::pair<int32_t, Merge>> found;  // (tile of the base section, merge)
  for (const SectionOfLevel& partial : partials) {
    const int64_t divisor = std::gcd(base_stride, partial.stride);
    const int64_t slot_step = base_stride / divisor;    // partial rows from one row of a base line to the next
    const int64_t row_step = partial.stride / divisor;  // base rows between the same two
    const int64_t apart = slot_step * partial.stride;   // in tokens
    const int64_t slot_shift = partial.section.tile_count * plan.geometry.tile_rows;
    for (int64_t t = 0; t < partial.section.tile_count; ++t) {
      const Tile& tile = plan.tiles[partial.section.tile_begin + t];
      const int64_t slot = partial.section.slot_begin + t * plan.geometry.tile_rows;
      for (int64_t phase = 0; phase < std::min<int64_t>(slot_step, tile.rows); ++phase) {
        int64_t row = phase;
        int64_t position = tile.row0 + phase * partial.stride;
        const Place key{position % base_stride, position, 0};
        for (auto place = std::upper_bound(places.begin(), places.end(), key, before) - 1; row < tile.rows; ++place) {
          const Tile& host = tiles[place->tile];
          const int64_t last = host.row0 + (host.rows - 1) * base_stride;
          if (position > last) continue;
          const int64_t rows = std::min((tile.rows - 1 - row) / slot_step, (last - position) / apart) + 1;
          found.emplace_back(place->tile, Merge{.slot = slot + row,
                                                .slot_shift = slot_shift,
                                                .slot_step = static_cast<int32_t>(slot_step),
                                                .row_begin = static_cast<int32_t>((position - host.row0) / base_stride),
                                                .row_step = rows > 1 ? static_cast<int32_t>(row_step) : 1,
                                                .rows = static_cast<int32_t>(rows)});
          row += rows * slot_step;
          position += rows * apart;
        }
      }
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  size_t next = 0;
  for (int64_t t = 0; t < base.section.tile_count; ++t) {
    tiles[t].merge_begin = static_cast<uint32_t>(plan.merges.size());
    for (; next < found.size() && found[next].first == t; ++next) {
      plan.merges.push_back(found[next].second);
      ++tiles[t].merge_count;
    }
  }
}

}  // namespace longstride::plan
