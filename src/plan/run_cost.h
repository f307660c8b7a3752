// What an engine multiplies for one run: the measure that the search minimises and that count() reports.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "longstride/plan.h"

namespace longstride::plan {

// Columns of one class in the blocks in which some row of the run sees some column.
inline int64_t computed_columns(const Run& run, bool transposed, int64_t column_block) {
  if (!transposed) {
    if (run.diagonal == Run::kEverything) return run.columns;
    const int64_t visible = std::clamp<int64_t>(run.row_end - 1 + run.diagonal, 0, run.columns);
    return std::min(run.columns, core::ceil_divide(visible, column_block) * column_block);
  }
  if (run.diagonal == -Run::kEverything) return run.columns;
  const int64_t hidden = std::clamp<int64_t>(run.row_begin + run.diagonal, 0, run.columns);
  return run.columns - hidden / column_block * column_block;
}

inline int64_t rounded_rows(int64_t rows, const Geometry& geometry) {
  return core::ceil_divide(rows, geometry.row_quantum) * geometry.row_quantum;
}

}  // namespace longstride::plan
