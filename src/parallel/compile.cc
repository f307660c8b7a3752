// Asks the planner for a part of the whole call, and moves its positions to where the rows lie.
#include "parallel/compile.h"

#include "plan/compile.h"

namespace longstride::parallel {
Plan compile_piece(const ShardedCall& call, const Piece& piece, const Geometry& geometry, Direction direction) {
  plan::check_geometry(geometry);
  Plan result = plan::compile_classes(call.pattern, call.classes,
                                      {.row_begin = piece.begin,
                                       .row_end = piece.end,
                                       .column_begin = piece.begin,
                                       .column_end = piece.end,
                                       .causal = call.pattern.causal(),
                                       .zero_keys = call.pattern.options().padding == Padding::kZeroKeys,
                                       .transposed = direction == Direction::kTransposed,
                                       .geometry = geometry});
  for (Tile& tile : result.tiles) tile.row0 -= piece.begin;
  for (Run& run : result.runs) run.column0 -= piece.begin;
  return result;
}

Plan compile_gathered(const ShardedCall& call, const Gathered& gathered, const Geometry& geometry,
                      Direction direction) {
  plan::check_geometry(geometry);
  const bool transposed = direction == Direction::kTransposed;
  std::vector<std::vector<plan::Rectangle>> of_classes;
  for (const GatheredClass& one : gathered.classes) of_classes.push_back(one.rectangles);
  return plan::compile_rectangles(of_classes, call.classes.class_of,
                                  {.row_end = transposed ? gathered.keys : gathered.queries,
                                   .column_end = transposed ? gathered.queries : gathered.keys,
                                   .transposed = transposed,
                                   .geometry = geometry});
}

}  // namespace longstride::parallel
