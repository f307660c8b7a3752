// Walking a plan: what the words of longstride/plan.h say of tiles, rows, columns and slots, once. An engine whose
// inner loops need another order keeps a walk of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "longstride/plan.h"

namespace longstride {

// A tile in one repeat of its section.
struct PlacedTile {
  const Level* level = nullptr;
  const Tile* tile = nullptr;
  int64_t repeat = 0;
  int64_t shift = 0;  // of every position of the tile in this repeat
  int64_t slot = 0;   // where a partial level keeps row 0; row j is j slots on

  int64_t row(int64_t j) const { return tile->row0 + j * level->stride + shift; }
  int64_t column(const Run& run, int64_t residue, int64_t i) const {
    return run.column0 + residue * run.residue_step + i * level->stride + shift;
  }
};

// Row j of a placed tile.
struct PlacedRow {
  PlacedTile placed;
  int32_t j = 0;
  int64_t position = 0;
  int64_t slot() const { return placed.slot + j; }
};

// Calls visit(section, tile) for every tile of a level that is stored: it is executed section.repeats times.
template <class Visit>
void for_each_stored_tile(const PlanView& plan, const Level& level, const Visit& visit) {
  for (const Section& section : plan.sections_of(level)) {
    for (const Tile& tile : plan.tiles_of(section)) visit(section, tile);
  }
}

// Calls visit(PlacedTile) for every tile of a level that is executed.
template <class Visit>
void for_each_tile(const PlanView& plan, const Level& level, const Visit& visit) {
  for (const Section& section : plan.sections_of(level)) {
    int64_t slot = section.slot_begin;
    for (int64_t n = 0; n < section.repeats; ++n) {
      for (const Tile& tile : plan.tiles_of(section)) {
        visit(PlacedTile{&level, &tile, n, n * section.shift, slot});
        slot += plan.tile_rows;
      }
    }
  }
}

// The same of all levels of a class, in order.
template <class Visit>
void for_each_tile(const PlanView& plan, const PlanClass& c, const Visit& visit) {
  for (const Level& level : plan.levels_of(c)) for_each_tile(plan, level, visit);
}

// Calls visit(PlacedRow) for every row of every tile of a class that is executed.
template <class Visit>
void for_each_row(const PlanView& plan, const PlanClass& c, const Visit& visit) {
  for_each_tile(plan, c, [&](const PlacedTile& placed) {
    for (int32_t j = 0; j < placed.tile->rows; ++j) visit(PlacedRow{placed, j, placed.row(j)});
  });
}

// Of each residue of a run's columns, those that row j of the tile sees: [first, second).
inline std::pair<int64_t, int64_t> columns_seen(const PlanView& plan, const Run& run, int64_t j) {
  if (j < run.row_begin || j >= run.row_end) return {0, 0};
  const int64_t begin = std::clamp<int64_t>(j + run.begin_diagonal(plan.direction), 0, run.columns);
  return {begin, std::clamp<int64_t>(j + run.end_diagonal(plan.direction), begin, run.columns)};
}

// Calls visit(position of the column, weight) for every pair of a row.
template <class Visit>
void for_each_pair(const PlanView& plan, const PlacedRow& row, const Visit& visit) {
  for (const Run& run : plan.runs_of(*row.placed.tile)) {
    const auto [begin, end] = columns_seen(plan, run, row.j);
    for (int64_t c = 0; c < run.residues; ++c) {
      for (int64_t i = begin; i < end; ++i) visit(row.placed.column(run, c, i), run.weight);
    }
  }
}

// Calls visit(position of the row, position of the column, weight) for every pair of a class.
template <class Visit>
void for_each_pair(const PlanView& plan, const PlanClass& c, const Visit& visit) {
  for_each_row(plan, c, [&](const PlacedRow& row) {
    for_each_pair(plan, row, [&](int64_t column, int32_t weight) { visit(row.position, column, weight); });
  });
}

// The phantom keys that a row sees.
inline int64_t phantom_count(const PlanView& plan, const PlacedRow& row) {
  int64_t count = 0;
  for (const Phantoms& some : plan.phantoms_of(*row.placed.tile)) {
    if (row.j >= some.row_begin && row.j < some.row_end) count += some.count;
  }
  return count;
}

// Calls visit(slot) for every partial result that a row of a base tile takes in.
template <class Visit>
void for_each_slot(const PlanView& plan, const PlacedRow& row, const Visit& visit) {
  for (const Merge& merge : plan.merges_of(*row.placed.tile)) {
    const int64_t slot = merge.slot_of_row(row.j, row.placed.repeat);
    if (slot >= 0) visit(slot);
  }
}

}  // namespace longstride
