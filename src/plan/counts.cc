// What a plan executes, counted from the plan itself. Called by tests, benchmarks and describe().
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/checked.h"
#include "core/refuse.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"
#include "plan/run_cost.h"
#include "plan/seen_pairs.h"

namespace longstride {
namespace {

void add(PlanCounts& total, const PlanCounts& part, int64_t times) {
  total.tiles += part.tiles * times;
  total.runs += part.runs * times;
  total.seen_pairs += part.seen_pairs * times;
  total.computed_pairs += part.computed_pairs * times;
  total.rows += part.rows * times;
  total.merged_rows += part.merged_rows * times;
  total.split_tiles += part.split_tiles * times;
  total.parts += part.parts * times;
}

// Counts the tiles that were cut into parts, and these. Of a partial level the first part of a tile has all its rows,
// and the others follow it; of the base level, tiles merge what a level of parts keeps.
void count_parts(const PlanView& view, const PlanClass& plan_class, PlanCounts& counts) {
  const auto levels = view.levels_of(plan_class);
  for (const Level& level : levels) {
    if (level.parts == Parts::kSome) {
      for (const Section& section : view.sections_of(level)) {
        const Tile* whole = nullptr;
        int64_t followed = 0;  // by so many parts
        for (const Tile& tile : view.tiles_of(section)) {
          const int64_t past = whole ? tile.row0 - whole->row0 : -1, rows = past / level.stride;
          const bool part = past >= 0 && rows * level.stride == past && rows + tile.rows <= whole->rows;
          if (!part) whole = &tile;
          followed = part ? followed + 1 : 0;
          if (followed == 1) add(counts, {.split_tiles = 1, .parts = 1}, section.repeats);
          if (part) add(counts, {.parts = 1}, section.repeats);
        }
      }
    } else if (level.parts == Parts::kOfBase) {
      int64_t begin = std::numeric_limits<int64_t>::max(), end = 0;  // its slots
      for (const Section& section : view.sections_of(level)) {
        const int64_t tiles = section.tile_count * section.repeats;
        counts.parts += tiles;
        begin = std::min(begin, section.slot_begin);
        end = std::max(end, section.slot_begin + tiles * view.tile_rows);
      }
      for_each_stored_tile(view, levels.back(), [&](const Section& section, const Tile& tile) {
        const auto merges = view.merges_of(tile);
        const bool cut =
            std::any_of(merges.begin(), merges.end(), [&](const Merge& m) { return m.slot >= begin && m.slot < end; });
        if (cut) add(counts, {.split_tiles = 1, .parts = tile.run_count > 0 ? 1 : 0}, section.repeats);
      });
    }
  }
}

void check_dim(int64_t dim) {
  if (dim < 0) core::refuse("dim", "must not be negative", dim);
}

}  // namespace

PlanCounts count(const PlanView& view, int64_t class_id) {
  const int64_t classes = std::ssize(view.classes);
  if (class_id < 0 || class_id >= classes) {
    core::refuse("class_id", fmt::format("must be in [0, {})", classes), class_id);
  }
  PlanCounts counts;
  const bool transposed = view.direction == Direction::kTransposed;
  const PlanClass& c = view.classes[class_id];
  for (const Level& level : view.levels_of(c)) {
    for_each_stored_tile(view, level, [&](const Section& section, const Tile& tile) {
      PlanCounts once{.tiles = 1, .runs = tile.run_count, .rows = level.partial ? 0 : tile.rows};
      const int64_t rows = core::ceil_divide(tile.rows, view.row_quantum) * view.row_quantum;
      for (const Run& run : view.runs_of(tile)) {
        once.computed_pairs += run.residues * plan::computed_pairs(run, rows, transposed, view);
      }
      for (const Merge& merge : view.merges_of(tile)) once.merged_rows += merge.rows;
      add(counts, once, section.repeats);
    });
  }
  count_parts(view, c, counts);
  counts.seen_pairs = plan::seen_pairs(view, c);
  return counts;
}

PlanCounts count(const PlanView& view, const Extent& extent) {
  extent.validate();
  if (std::ssize(view.class_of) != extent.batch * extent.kv_heads) {
    core::refuse("extent",
                 fmt::format("must be the one that the plan of {} KV heads was compiled for", view.class_of.size()),
                 fmt::format("batch {} x kv_heads {}", extent.batch, extent.kv_heads));
  }
  PlanCounts total;
  const int64_t query_heads = extent.heads / extent.kv_heads;
  std::vector<int64_t> uses(view.classes.size());
  for (const int32_t c : view.class_of) uses[c] += query_heads;
  for (size_t c = 0; c < uses.size(); ++c) add(total, count(view, c), uses[c]);
  return total;
}

double useful_flops(const PlanView& view, const Extent& extent, int64_t dim) {
  check_dim(dim);
  return 4.0 * dim * count(view, extent).seen_pairs;
}

double nominal_flops(const Pattern& pattern, const Extent& extent, int64_t dim) {
  check_dim(dim);
  extent.validate();
  double per_row = 0;  // keys a query
  for (const Group& g : pattern.groups()) {
    const double rate = g.rate;
    per_row += std::min(g.segment, extent.len_k) / rate / rate;
  }
  if (pattern.options().mixing == Mixing::kHeadPartition) per_row /= pattern.groups().size();
  for (const BlockPattern& block : pattern.blocks()) {
    // The mean over batch rows and KV heads, on one document of len_k tokens.
    double density = 0;
    for (int64_t b = 0; b < extent.batch; ++b) {
      for (int64_t j = 0; j < extent.kv_heads; ++j) density += block.density(extent.len_k, pattern.causal(), j, b);
    }
    const double places = std::max<int64_t>(1, extent.batch * extent.kv_heads);
    per_row += extent.len_k * density / places;
  }
  if (pattern.causal()) per_row /= 2;
  return 4.0 * dim * extent.batch * extent.heads * extent.len_q * per_row;
}

}  // namespace longstride
