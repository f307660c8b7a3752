// compile(): a pattern and the lengths of a call become a plan. Pure: values in, values out.
//
// The steps, each a file: classes (what every KV head samples), bands or rectangles (block patterns as rows of tokens),
// levels (which groups share a stride, by cost), tiler (rows into tiles, segments into runs), class_writer (order,
// repetition), division and parts (what is too long for one worker), merges.
#include "plan/compile.h"

#include <fmt/format.h>

#include "core/refuse.h"
#include "longstride/pattern.h"
#include "plan/class_writer.h"
#include "plan/levels.h"
#include "plan/run_cost.h"

namespace longstride {
namespace plan {

void check_geometry(const Geometry& geometry) {
  const auto refuse = [](const char* field, auto got) {
    core::refuse(fmt::format("geometry.{}", field), "is out of range", got);
  };
  if (geometry.tile_rows < 1 || geometry.tile_rows > INT16_MAX) refuse("tile_rows", geometry.tile_rows);
  if (geometry.column_block < 1) refuse("column_block", geometry.column_block);
  if (geometry.column_quantum < 1) refuse("column_quantum", geometry.column_quantum);
  if (geometry.row_quantum < 1) refuse("row_quantum", geometry.row_quantum);
  if (geometry.run_row_quantum < 1) refuse("run_row_quantum", geometry.run_row_quantum);
  if (geometry.diagonal_rows < 1) refuse("diagonal_rows", geometry.diagonal_rows);
  if (!(geometry.merge_columns >= 0)) refuse("merge_columns", geometry.merge_columns);
  if (!(geometry.run_columns >= 0)) refuse("run_columns", geometry.run_columns);
  if (!(geometry.tile_columns >= 0)) refuse("tile_columns", geometry.tile_columns);
  if (geometry.workers < 1 || geometry.workers > Geometry::kMostWorkers) refuse("workers", geometry.workers);
  if (!(geometry.part_columns >= 0)) refuse("part_columns", geometry.part_columns);
}

Plan compile_classes(const Pattern& pattern, const Classes& classes, Scope scope) {
  scope.sliding_unit = sliding_unit(pattern, scope.geometry, scope.row_end - scope.row_begin);
  Plan result;
  result.direction = direction(scope.transposed);
  result.geometry = scope.geometry;
  result.class_of = classes.class_of;
  result.classes.reserve(classes.specs.size());
  result.levels.reserve(2 * classes.specs.size());
  result.sections.reserve(2 * classes.specs.size());
  LevelSearch search(scope);
  search.prepare(classes.specs);
  ClassWriter writer(scope, result);
  const bool one_row = scope.row_end - scope.row_begin == 1;
  for (ClassSpec spec : classes.specs) {
    if (one_row && writer.add_one_row(spec)) continue;
    if (scope.sliding_unit > 0) {
      spec.rectangles = std::make_shared<const Rectangles>(make_rectangles(pattern, spec, scope));
    } else if (!pattern.blocks().empty()) {
      spec.bands = std::make_shared<const Bands>(make_bands(pattern, spec, scope));
    }
    writer.add(spec, search.choose(spec));
  }
  return result;
}

Plan compile_rectangles(const std::vector<std::vector<Rectangle>>& of_classes, const std::vector<int32_t>& class_of,
                        Scope scope) {
  scope.causal = scope.zero_keys = false;
  scope.sliding_unit = 1;
  Plan result;
  result.direction = direction(scope.transposed);
  result.geometry = scope.geometry;
  result.class_of = class_of;
  LevelSearch search(scope);
  ClassWriter writer(scope, result);
  for (const std::vector<Rectangle>& all : of_classes) {
    const ClassSpec spec{.documents = std::make_shared<const Documents>(Documents{0, scope.row_end}),
                         .rectangles = std::make_shared<const Rectangles>(make_rectangles(all, scope))};
    writer.add(spec, search.choose(spec));
  }
  return result;
}

}  // namespace plan

Plan compile(const Pattern& pattern, const Extent& extent, const Geometry& geometry, Direction direction) {
  if (pattern.empty()) {
    core::refuse("pattern", "must have groups or blocks", "neither",
                 "Pattern::dilated and Pattern::block_sparse make one");
  }
  extent.validate();
  plan::check_geometry(geometry);
  const bool transposed = direction == Direction::kTransposed;
  const int64_t query_end = extent.query_start + extent.len_q;
  return plan::compile_classes(pattern, plan::classify(pattern, extent),
                               {.row_begin = transposed ? 0 : extent.query_start,
                                .row_end = transposed ? extent.len_k : query_end,
                                .column_begin = transposed ? extent.query_start : 0,
                                .column_end = transposed ? query_end : extent.len_k,
                                .causal = pattern.causal(),
                                .zero_keys = pattern.options().padding == Padding::kZeroKeys,
                                .transposed = transposed,
                                .geometry = geometry});
}

PlanView Plan::view() const {
  return {direction,
          geometry.tile_rows,
          geometry.column_block,
          class_of,
          classes,
          levels,
          sections,
          tiles,
          runs,
          phantoms,
          merges,
          geometry.row_quantum,
          geometry.run_row_quantum,
          geometry.diagonal_rows};
}

int64_t PlanView::bytes() const {
  const auto size = [](const auto& array) { return array.size_bytes(); };
  return size(class_of) + size(classes) + size(levels) + size(sections) + size(tiles) + size(runs) + size(phantoms) +
         size(merges);
}

}  // namespace longstride
