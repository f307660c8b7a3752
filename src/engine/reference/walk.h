// How the reference engine walks a plan: level by level, tile by tile, row by row, pair by pair, exactly as the words
// of longstride/plan.h say and assuming nothing about how the plan was compiled. Called by forward.cc and backward.cc.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/contract.h"

namespace longstride::engine::reference {

// One executed tile row.
struct TileRow {
  const Level* level = nullptr;
  const Tile* tile = nullptr;
  int64_t repeat = 0;
  int64_t shift = 0;     // of every position of the tile in this repeat
  int64_t index = 0;     // j, within the tile
  int64_t position = 0;  // row0 + j * L + shift
  int64_t slot = 0;      // where a partial level keeps it
};

// Calls body(TileRow) for every row of every tile of a class, levels in order.
template <typename Body>
void for_each_row(const PlanView& plan, int64_t class_id, Body&& body) {
  const PlanClass& its = plan.classes[class_id];
  for (const Level& level : plan.levels.subspan(its.level_begin, its.level_count)) {
    for (const Section& section : plan.sections.subspan(level.section_begin, level.section_count)) {
      for (int64_t n = 0; n < section.repeats; ++n) {
        for (int64_t t = 0; t < section.tile_count; ++t) {
          TileRow row;
          row.level = &level;
          row.tile = &plan.tiles[section.tile_begin + t];
          row.repeat = n;
          row.shift = n * section.shift;
          for (row.index = 0; row.index < row.tile->rows; ++row.index) {
            row.position = row.tile->row0 + row.index * level.stride + row.shift;
            row.slot = section.slot_begin + (n * section.tile_count + t) * plan.tile_rows + row.index;
            body(row);
          }
        }
      }
    }
  }
}

// Calls body(column position, weight) for every pair of a row.
template <typename Body>
void for_each_pair(const PlanView& plan, const TileRow& row, Body&& body) {
  for (const Run& run : plan.runs.subspan(row.tile->run_begin, row.tile->run_count)) {
    if (row.index < run.row_begin || row.index >= run.row_end) continue;
    const int64_t edge = row.index + run.diagonal;
    const bool forward = plan.direction == Direction::kForward;
    const int64_t begin = forward ? 0 : std::clamp<int64_t>(edge, 0, run.columns);
    const int64_t end = forward ? std::clamp<int64_t>(edge, 0, run.columns) : run.columns;
    for (int64_t c = 0; c < run.classes; ++c) {
      for (int64_t i = begin; i < end; ++i) {
        body(run.column0 + c * run.class_step + i * row.level->stride + row.shift, run.weight);
      }
    }
  }
}

// The phantom keys that a row sees.
inline int64_t phantoms_of(const PlanView& plan, const TileRow& row) {
  int64_t count = 0;
  for (const Phantoms& some : plan.phantoms.subspan(row.tile->phantom_begin, row.tile->phantom_count)) {
    if (row.index >= some.row_begin && row.index < some.row_end) count += some.count;
  }
  return count;
}

// Calls body(slot) for every partial result that a base row must take in.
template <typename Body>
void for_each_slot(const PlanView& plan, const TileRow& row, Body&& body) {
  for (const Merge& merge : plan.merges.subspan(row.tile->merge_begin, row.tile->merge_count)) {
    const int64_t past = row.index - merge.row_begin;
    if (past < 0 || past % merge.row_step != 0 || past / merge.row_step >= merge.rows) continue;
    body(merge.slot + (past / merge.row_step) * merge.slot_step + merge.slot_shift * row.repeat);
  }
}

// Calls body(b, j) for every batch row and KV head, in parallel if the caller brought threads.
template <typename Body>
void for_each_kv_head(const Problem& p, const Workspace& workspace, Body&& body) {
  const int64_t count = p.batch * p.kv_heads;
  const auto one = [&](int64_t index, int) { body(index / p.kv_heads, index % p.kv_heads); };
  if (workspace.parallel_for) {
    workspace.parallel_for(count, one);
  } else {
    for (int64_t index = 0; index < count; ++index) one(index, 0);
  }
}

// Throws Error if problem and plan do not belong together or ask for what this engine has not.
void check(const Problem&, const PlanView&, Direction);

}  // namespace longstride::engine::reference
