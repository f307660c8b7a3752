// What a BlockPattern means: the checks of its rule, and the active blocks of one document, row by row, as intervals.
// Called by blocks.cc and by the planner, which turns rows of blocks into rows of tokens. And what of a density can be
// had, for the rules of the block patterns (block_density.cc).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "longstride/pattern/blocks.h"

namespace longstride::pattern {

struct Interval {
  int64_t begin = 0;
  int64_t end = 0;
  auto operator<=>(const Interval&) const = default;
};

// Row first + n sees the key blocks of intervals [row_begin[n], row_begin[n + 1]): disjoint, ascending, not adjacent.
struct BlockRows {
  int64_t first = 0;
  std::vector<int64_t> row_begin = {0};
  std::vector<Interval> intervals;
};

using Cells = std::vector<std::pair<int64_t, int64_t>>;  // (query block, key block)

// Where and for whom a pattern is asked.
struct Place {
  int64_t blocks = 0;  // nb of the document
  bool causal = false;
  int64_t kv_head = 0;
  int64_t batch_row = 0;
  bool strict =
      true;  // a density out of reach is refused (where there are two blocks or more), else the nearest is taken
  const Cells* cells = nullptr;  // of a BlockList: those of this batch row and KV head, sorted; null: looked up
};

// Rows [row_begin, row_end) of the document. Throws Error: see Place::strict. Blocks of a BlockList beyond the document
// are left out.
BlockRows active_rows(const BlockPattern&, const Place&, int64_t row_begin, int64_t row_end);

// Throws Error unless the rule's fields are in their ranges, and it takes this block_size.
void check(int64_t block_size, const BlockRule&);

// The cells of a BlockList for one batch row and KV head, sorted.
Cells cells_of(const BlockList&, int64_t batch_row, int64_t kv_head);

// Sorts, and joins what touches.
void normalise(std::vector<Interval>&);

// Block pairs that there are.
double pairs_in_all(const Place&);

// Throws Error if `density` is out of reach where from `least` to `most` block pairs can be had: half a block is
// rounding.
void check_density(const Place&, double density, double least, double most);

// The number n of distances step, 2 * step, ..., n * step that comes nearest to a density, the diagonal included.
int64_t nearest_reach(const Place&, double density, int64_t step);

}  // namespace longstride::pattern
