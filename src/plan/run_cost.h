// What an engine multiplies for one run: the measure that the search minimises and that count() reports.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "longstride/plan.h"

namespace longstride::plan {

// Columns of one class in the blocks in which some row before `row_end` of the run sees some column.
inline int64_t columns_before(const Run& run, int64_t row_end, int64_t column_block) {
  const int64_t visible = std::clamp<int64_t>(row_end - 1 + run.diagonal, 0, run.columns);
  return std::min(run.columns, core::ceil_divide(visible, column_block) * column_block);
}

// Pairs of one class that an engine multiplies for a run of a tile of `rows` rows. `view` is a Geometry or a PlanView.
template <class View>
int64_t computed_pairs(const Run& run, int64_t rows, bool transposed, const View& view) {
  if (transposed) {
    if (run.diagonal == -Run::kEverything) return rows * run.columns;
    const int64_t hidden = std::clamp<int64_t>(run.row_begin + run.diagonal, 0, run.columns);
    return rows * (run.columns - hidden / view.column_block * view.column_block);
  }
  if (run.diagonal >= run.columns) return rows * run.columns;
  int64_t pairs = 0;
  for (int64_t row = 0; row < rows; row += view.diagonal_rows) {
    const int64_t end = std::min(row + view.diagonal_rows, rows);
    pairs += (end - row) * columns_before(run, std::min<int64_t>(end, run.row_end), view.column_block);
  }
  return pairs;
}

inline int64_t rounded_rows(int64_t rows, const Geometry& geometry) {
  return core::ceil_divide(rows, geometry.row_quantum) * geometry.row_quantum;
}

}  // namespace longstride::plan
