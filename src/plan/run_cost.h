// What an engine multiplies for one run: the measure that the search minimises and that count() reports.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "longstride/plan.h"

namespace longstride::plan {

// Columns of one class in the blocks in which some row before `row_end` (forward), or any row (transposed), sees some
// column.
inline int64_t computed_columns(const Run& run, int64_t row_end, bool transposed, int64_t column_block) {
  if (!transposed) {
    if (run.diagonal >= run.columns) return run.columns;
    const int64_t visible = std::clamp<int64_t>(row_end - 1 + run.diagonal, 0, run.columns);
    return std::min(run.columns, core::ceil_divide(visible, column_block) * column_block);
  }
  if (run.diagonal == -Run::kEverything) return run.columns;
  const int64_t hidden = std::clamp<int64_t>(run.row_begin + run.diagonal, 0, run.columns);
  return run.columns - hidden / column_block * column_block;
}

// Pairs of one class that an engine multiplies for a run of a tile of `rows` rows. `View` is Geometry or PlanView.
template <class View>
int64_t computed_pairs(const Run& run, int64_t rows, bool transposed, const View& view) {
  const int64_t begin = run.row_begin / view.run_row_quantum * view.run_row_quantum;
  const int64_t end = std::min(rows, core::ceil_divide(run.row_end, view.run_row_quantum) * view.run_row_quantum);
  if (transposed || run.diagonal >= run.columns) {
    return (end - begin) * computed_columns(run, run.row_end, transposed, view.column_block);
  }
  int64_t pairs = 0;
  for (int64_t row = begin; row < end;) {
    const int64_t next = std::min((row / view.diagonal_rows + 1) * view.diagonal_rows, end);
    pairs += (next - row) * computed_columns(run, std::min<int64_t>(next, run.row_end), false, view.column_block);
    row = next;
  }
  return pairs;
}

inline int64_t rounded_rows(int64_t rows, const Geometry& geometry) {
  return core::ceil_divide(rows, geometry.row_quantum) * geometry.row_quantum;
}

}  // namespace longstride::plan
