// What an engine multiplies for one run: the measure that the search minimises and that count() reports.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "longstride/plan.h"

namespace longstride::plan {

inline Direction direction(bool transposed) { return transposed ? Direction::kTransposed : Direction::kForward; }

// Columns of one residue in the blocks in which some row of [row_begin, row_end) sees some column.
inline int64_t computed_columns(const Run& run, int64_t row_begin, int64_t row_end, bool transposed,
                                int64_t column_block) {
  const Direction d = direction(transposed);
  const int64_t hidden = std::clamp<int64_t>(row_begin + run.begin_diagonal(d), 0, run.columns);
  const int64_t visible = std::clamp<int64_t>(row_end - 1 + run.end_diagonal(d), hidden, run.columns);
  return std::min(run.columns, core::ceil_divide(visible, column_block) * column_block) -
         hidden / column_block * column_block;
}

// Whether every row that a forward run serves sees all its columns.
inline bool sees_everything(const Run& run) {
  return run.row_begin + run.diagonal >= run.columns && run.row_end - 1 + run.low <= 0;
}

// Pairs of one residue that an engine multiplies for a run of a tile of `rows` rows. `View` is Geometry or PlanView.
template <class View>
int64_t computed_pairs(const Run& run, int64_t rows, bool transposed, const View& view) {
  const int64_t begin = run.row_begin / view.run_row_quantum * view.run_row_quantum;
  const int64_t end = std::min(rows, core::ceil_divide(run.row_end, view.run_row_quantum) * view.run_row_quantum);
  if (transposed || sees_everything(run)) {
    return (end - begin) * computed_columns(run, run.row_begin, run.row_end, transposed, view.column_block);
  }
  int64_t pairs = 0;
  for (int64_t row = begin; row < end;) {
    const int64_t next = std::min((row / view.diagonal_rows + 1) * view.diagonal_rows, end);
    const int64_t first = std::clamp<int64_t>(row, run.row_begin, run.row_end - 1);
    const int64_t last = std::clamp<int64_t>(next, first + 1, run.row_end);
    pairs += (next - row) * computed_columns(run, first, last, false, view.column_block);
    row = next;
  }
  return pairs;
}

// Blocks of columns that a run of a tile begins, of all residues.
inline int64_t begun_blocks(const Run& run, bool transposed, const Geometry& geometry) {
  const int64_t columns = computed_columns(run, run.row_begin, run.row_end, transposed, geometry.column_block);
  return core::ceil_divide(columns, geometry.column_block) * run.residues;
}

// What a tile of so many blocks costs beside its pairs.
inline double fixed_price(int64_t blocks, const Geometry& geometry) {
  return geometry.tile_rows * (geometry.tile_columns + geometry.run_columns * static_cast<double>(blocks));
}

inline int64_t rounded_rows(int64_t rows, const Geometry& geometry) {
  return core::ceil_divide(rows, geometry.row_quantum) * geometry.row_quantum;
}

}  // namespace longstride::plan
