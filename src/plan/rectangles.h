// The block patterns of one class as rectangles with diagonals: what bands (bands.h) would cut row by row where a
// pattern slides with its rows, by token or by small blocks. Called by compile(), by the tiler and by the planner of
// ranks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "longstride/plan.h"
#include "plan/classes.h"

namespace longstride::plan {

struct Scope;

// Rows [row_begin, row_end) see the columns of [column_begin, column_end) with least <= column - row <= most: all in
// blocks of Rectangles::unit tokens counted from `origin`, of which there are those before the position `limit`. Causal
// pairs are hidden beyond what that says.
struct Rectangle {
  static constexpr int64_t kFar = std::numeric_limits<int64_t>::max() / 4;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
  int64_t least = -kFar;
  int64_t most = kFar;
  int64_t origin = 0;
  int64_t limit = kFar;
};

struct Rectangles {
  // Tokens of a block. Rows and columns at this stride are one of each block, so that blocks slide as tokens do.
  int64_t unit = 1;
  // Their pairs are disjoint.
  std::vector<Rectangle> all;
  // Rows row_begin + n * stretch on, `stretch` of them, meet members [stretch_begin[n], stretch_begin[n + 1]).
  int64_t row_begin = 0;
  int64_t stretch = 1;
  std::vector<int64_t> stretch_begin;
  std::vector<int32_t> members;

  int64_t first_row(const Rectangle& r) const { return std::max(row_begin, r.origin + r.row_begin * unit); }
  int64_t end_row(const Rectangle& r) const { return std::min(r.limit, r.origin + r.row_end * unit); }

  // Calls visit(rectangle) once for each that has rows of [begin, end), which are rows of the plan.
  template <class Visit>
  void for_each_of_rows(int64_t begin, int64_t end, const Visit& visit) const {
    const int64_t first = (begin - row_begin) / stretch, last = (end - 1 - row_begin) / stretch;
    for (int64_t n = first; n <= last; ++n) {
      for (int64_t m = stretch_begin[n]; m < stretch_begin[n + 1]; ++m) {
        const Rectangle& one = all[members[m]];
        const bool met_before = n > first && first_row(one) < row_begin + n * stretch;
        if (!met_before && first_row(one) < end && end_row(one) > begin) visit(one);
      }
    }
  }
};

// Of how many tokens the blocks are in which a pattern is planned as rectangles: 1 if it has a sliding window, or a
// rule of blocks of one token that slides with its rows; more if all its rules slide by such small blocks. 0: it is
// planned as bands. `rows`: of the plan.
int64_t sliding_unit(const Pattern&, const Geometry&, int64_t rows);

// Of a class of a pattern that slides. Throws Error if a density cannot be reached.
Rectangles make_rectangles(const Pattern&, const ClassSpec&, const Scope&);
// Of rectangles whose rows are queries and whose columns are keys, in tokens.
Rectangles make_rectangles(const std::vector<Rectangle>&, const Scope&);

}  // namespace longstride::plan
