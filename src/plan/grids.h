// The block patterns of a class on one document, as the planner asks for them: which columns a query sees, in tokens,
// and up to where that holds. Called by bands.cc and rectangles.cc.
#pragma once

#include <cstdint>
#include <vector>

#include "pattern/block_rows.h"
#include "plan/classes.h"

namespace longstride::plan {

struct Scope;

// One pattern on one document, its rows within the queries of the plan.
struct Grid {
  const BlockPattern* pattern = nullptr;
  int64_t document_begin = 0;
  int64_t document_end = 0;
  int64_t row_end = 0;
  pattern::BlockRows rows;  // none of a sliding window, which is told by a formula

  int64_t block_size() const { return pattern->block_size(); }
  int64_t block_of(int64_t position) const { return (position - document_begin) / block_size(); }
  int64_t next_edge(int64_t position) const;
  // Appends the columns of a row, ascending; of a pattern that is no sliding window.
  void add_columns(int64_t position, std::vector<pattern::Interval>& out) const;
};

// Those of document d, for the queries [begin, end) of it. Throws Error if a density cannot be reached.
std::vector<Grid> make_grids(const Pattern&, const ClassSpec&, const Scope&, size_t d, int64_t begin, int64_t end);

}  // namespace longstride::plan
