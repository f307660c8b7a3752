// Asks the rules for their rows, document by document.
#include "plan/grids.h"

#include <algorithm>

#include "core/checked.h"
#include "plan/level.h"

namespace longstride::plan {

int64_t Grid::next_edge(int64_t position) const {
  return std::min(row_end, document_begin + (block_of(position) + 1) * block_size());
}

void Grid::add_columns(int64_t position, std::vector<pattern::Interval>& out) const {
  const int64_t n = block_of(position) - rows.first;
  for (int64_t i = rows.row_begin[n]; i < rows.row_begin[n + 1]; ++i) {
    const pattern::Interval& x = rows.intervals[i];
    out.push_back(
        {document_begin + x.begin * block_size(), std::min(document_end, document_begin + x.end * block_size())});
  }
}

std::vector<Grid> make_grids(const Pattern& pattern, const ClassSpec& spec, const Scope& scope, size_t d, int64_t begin,
                             int64_t end) {
  const Documents& documents = *spec.documents;
  const int64_t length = documents[d] - documents[d - 1];
  std::vector<Grid> grids;
  for (size_t p = 0; p < pattern.blocks().size(); ++p) {
    const BlockPattern& block = pattern.blocks()[p];
    Grid grid{&block, documents[d - 1], documents[d], end, {}};
    if (!block.window()) {
      const pattern::Place place{.blocks = core::ceil_divide(length, block.block_size()),
                                 .causal = scope.causal,
                                 .kv_head = spec.kv_head,
                                 .batch_row = spec.batch_row,
                                 .strict = length == spec.longest_document,
                                 .cells = spec.cells[p].get()};
      grid.rows = pattern::active_rows(block, place, grid.block_of(begin), grid.block_of(end - 1) + 1);
    }
    grids.push_back(std::move(grid));
  }
  return grids;
}

}  // namespace longstride::plan
