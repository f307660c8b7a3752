// Who sees whom, counted from the definition (docs/semantics.md) on a grid of cells of one or more tokens: what show
// draws. It asks the pattern for its groups, offsets and active blocks and uses no plan. Torch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "longstride/pattern.h"

namespace longstride::cli {

// Rows are cells of queries, columns cells of keys; a cell is `query_tokens` x `key_tokens` pairs (less at the end).
struct Cells {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t query_tokens = 1;
  int64_t key_tokens = 1;
  // What is counted one by one: the groups, then, if there are block patterns, their union.
  int64_t layers = 0;
  // layers x rows x columns: the share of the cell's pairs that the layer shows, 0 to 1.
  std::vector<double> share;
  double of(int64_t layer, int64_t row, int64_t column) const {
    return share[static_cast<size_t>((layer * rows + row) * columns + column)];
  }
};

// For one query head (of batch row 0), with at most `limit` cells a side, each of a power of two of tokens: otherwise
// the strides of the pattern would beat against the grid.
Cells count_cells(const Pattern& pattern, const Extent& extent, int64_t head, int64_t limit);

}  // namespace longstride::cli
