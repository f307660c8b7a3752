// Which rows of a shard stand where in a rank's messages and buffers, as the kernels of rows.h read it: arithmetic
// progressions, a few a class, whatever the length. Plain data; src/op/parallel makes it of a rank's lists.
#pragma once

#include <cstdint>
#include <vector>

namespace longstride::engine::cuda {

// Rows first, first + step, ... of the shard of one place (a batch row and a head), `count` of them. They lie one by
// one from row `packed` on of the other memory, counted from where the rows of the place begin in its `part` (a
// message).
struct RowLine {
  int64_t first = 0;
  int64_t step = 1;
  int64_t count = 0;
  int64_t packed = 0;
  int64_t before = 0;  // rows of the lines of its class that stand before it
  int64_t part = 0;
  bool operator==(const RowLine&) const = default;
};

struct RowTable {
  std::vector<RowLine> lines;       // class by class. A row may stand in several
  std::vector<int64_t> line_begin;  // classes + 1
  std::vector<int64_t> class_of;    // of each place, batch row by batch row
  std::vector<int64_t> part_begin;  // [parts, places]: where its rows begin in the other memory
  int64_t heads = 1;                // places a batch row
  int64_t most_rows = 0;            // of the lines of any class

  int64_t places() const { return static_cast<int64_t>(class_of.size()); }
};

}  // namespace longstride::engine::cuda
