// The runs of a tile of a level that is made of rectangles: one a rectangle, with its two diagonals. Where the
// rectangles are in blocks, the tile's rows stand at one place of theirs, and the columns of a run at places next to
// each other: one residue each.
#include <algorithm>

#include "core/checked.h"
#include "plan/rectangles.h"
#include "plan/tiler.h"

namespace longstride::plan {
namespace {

int64_t ceil_divide(int64_t a, int64_t b) { return -core::floor_divide(-a, b); }  // of negative ones too

}  // namespace

// Columns [begin, end) of a rectangle at the places [place, place_end) of their blocks, seen by rows at one place of
// theirs: least <= column - row <= most. All in blocks.
struct Tiler::Places {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t least = 0;
  int64_t most = 0;
  int64_t place = 0;
  int64_t place_end = 0;
  bool sees_as(const Places& other) const {
    return begin == other.begin && end == other.end && least == other.least && most == other.most;
  }
};

Tiler::Places Tiler::places_at(const Rectangle& r, int64_t place) const {
  const int64_t unit = level_->rectangles->unit, row_place = core::floor_modulo(row0_ - r.origin, unit);
  const int64_t first = scope_.column_begin - r.origin - place;
  const int64_t limit = std::min(scope_.column_end, r.limit) - r.origin - place;
  Places places{std::max(r.column_begin, ceil_divide(first, unit)),
                std::min(r.column_end, ceil_divide(limit, unit)),
                r.least,
                r.most,
                place,
                place + 1};
  if (scope_.causal && !scope_.transposed) places.most = std::min<int64_t>(places.most, place <= row_place ? 0 : -1);
  if (scope_.causal && scope_.transposed) places.least = std::max<int64_t>(places.least, place >= row_place ? 0 : 1);
  return places;
}

void Tiler::emit_rectangles(int64_t rows, std::vector<Run>& runs) const {
  const int64_t unit = level_->rectangles->unit;
  level_->rectangles->for_each_of_rows(row0_, row0_ + (rows - 1) * unit + 1, [&](const Rectangle& r) {
    Places alike = places_at(r, 0);
    for (int64_t place = 1; place < unit; ++place) {
      const Places places = places_at(r, place);
      if (!places.sees_as(alike)) {
        emit_places(r, alike, rows, runs);
        alike = places;
      }
      alike.place_end = place + 1;
    }
    emit_places(r, alike, rows, runs);
  });
}

void Tiler::emit_places(const Rectangle& r, const Places& places, int64_t rows, std::vector<Run>& runs) const {
  const int64_t unit = level_->rectangles->unit, row0 = core::floor_divide(row0_ - r.origin, unit);
  const int64_t rows_end = row0 + std::min(rows, ceil_divide(r.limit - row0_, unit));
  // Rows that see a column, then columns that are seen.
  const int64_t row_begin = std::max({r.row_begin, row0, places.begin - places.most});
  const int64_t row_end = std::min({r.row_end, rows_end, places.end - places.least});
  if (places.least > places.most || places.begin >= places.end || row_begin >= row_end) return;
  const int64_t column_begin = std::max(places.begin, row_begin + places.least);
  const int64_t column_end = std::min(places.end, row_end + places.most);
  if (column_begin >= column_end) return;
  Run run{.column0 = r.origin + column_begin * unit + places.place,
          .columns = column_end - column_begin,
          .residue_step = places.place_end - places.place > 1 ? 1 : 0,
          .residues = static_cast<int16_t>(places.place_end - places.place),
          .row_begin = static_cast<int16_t>(row_begin - row0),
          .row_end = static_cast<int16_t>(row_end - row0)};
  // Row j sees the columns j + begin <= i < j + end; an end out of reach is none.
  const int64_t begin = places.least + row0 - column_begin, end = places.most + 1 + row0 - column_begin;
  const bool begin_cuts = run.row_end - 1 + begin > 0, end_cuts = run.row_begin + end < run.columns;
  if (scope_.transposed) {
    run.diagonal = begin_cuts ? begin : -Run::kEverything;
    if (end_cuts) run.low = 1 - end;
  } else {
    if (begin_cuts) run.low = begin;
    run.diagonal = end_cuts ? end : Run::kEverything;
  }
  runs.push_back(run);
}

}  // namespace longstride::plan
