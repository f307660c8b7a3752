#include "engine/cpu/packing.h"

#include <cstring>

namespace longstride::engine::cpu {

void load_block(const HeadRows& rows, const LineOrder& order, int64_t block, Cell cell, int64_t dim_padded,
                void* cells) {
  int64_t filled = 0;
  const auto clear = [&](int64_t begin, int64_t end) {
    if (begin < end) {
      std::memset(at_cell(cells, begin * dim_padded, cell), 0,
                  static_cast<size_t>((end - begin) * dim_padded * cell_bytes(cell)));
    }
  };
  order.walk(block, [&](int64_t row, int64_t position, int64_t count) {
    clear(filled, row);
    gather_rows(rows.dtype, rows.row(position), rows.stride * order.stride(), count, rows.dim, false, cell, dim_padded,
                at_cell(cells, row * dim_padded, cell));
    filled = row + count;
  });
  clear(filled, kBlock);
}

const char* pack_block(const HeadRows& rows, const LineOrder& order, int64_t block, Cell cell, int64_t dim_padded,
                       char* cells, char* to) {
  char* loaded = cell == Cell::kFloat32 ? to : cells;
  load_block(rows, order, block, cell, dim_padded, loaded);
  if (loaded != to) pack_rows(cell, loaded, kBlock, dim_padded, to);
  return loaded;
}

void copy_live_rows(Cell cell, const void* packed, int64_t dim_padded, int64_t begin, int64_t count, int64_t first,
                    int64_t last, void* to) {
  std::memset(to, 0, static_cast<size_t>(count * dim_padded * cell_bytes(cell)));
  for (int64_t r = first; r < last; ++r) {
    if (cell == Cell::kFloat32) {
      std::memcpy(at_cell(to, r * dim_padded, cell), at_cell(packed, (begin + r) * dim_padded, cell),
                  static_cast<size_t>(dim_padded) * 4);
      continue;
    }
    // Row r of a group is cell r / 16 of pair r % 16.
    const int64_t half = kGroup / 2;
    const int64_t pair = (r / kGroup * half + r % half) * dim_padded * 2 + r % kGroup / half;
    const auto* from = static_cast<const uint16_t*>(packed) + begin * dim_padded + pair;
    auto* out = static_cast<uint16_t*>(to) + pair;
    for (int64_t x = 0; x < dim_padded; ++x) out[2 * x] = from[2 * x];
  }
}

}  // namespace longstride::engine::cpu
