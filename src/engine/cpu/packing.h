// Packs blocks of a tensor's rows in line order as right operands of products. Called by forward.cc and backward.cc.
#pragma once

#include <cstdint>

#include "engine/contract.h"
#include "engine/cpu/line_order.h"
#include "engine/cpu/products.h"

namespace longstride::engine::cpu {

// The rows of one head of one batch row.
struct HeadRows {
  const char* base = nullptr;
  int64_t stride = 0;  // in elements
  core::DType dtype = core::DType::kFloat32;
  int64_t dim = 0;

  HeadRows(const ConstTensorRef& t, const Problem& p, int64_t b, int64_t head)
      : base(static_cast<const char*>(t.data) +
             (b * t.batch_stride + head * t.head_stride) * static_cast<int64_t>(core::size_bytes(p.dtype))),
        stride(t.len_stride),
        dtype(p.dtype),
        dim(p.dim) {}
  const char* row(int64_t i) const { return base + i * stride * static_cast<int64_t>(core::size_bytes(dtype)); }
};

// Block `block` of `rows` in line order, kBlock x dim_padded cells; rows that hold no position are zero.
void load_block(const HeadRows& rows, const LineOrder& order, int64_t block, Cell cell, int64_t dim_padded,
                void* cells);

// The same, packed row by row (pack_rows) into `to`. Returns the block's cells, for other packings of it: `cells`, or
// `to` where packing is nothing (float32).
const char* pack_block(const HeadRows& rows, const LineOrder& order, int64_t block, Cell cell, int64_t dim_padded,
                       char* cells, char* to);

// Rows [first, last) of a packed block of rows, from row `begin` on, `count` rows (both multiples of kGroup); the
// others of `to` are zero. For blocks that hold numbers that are not finite, so that zero weights do not spread them to
// rows that no pair ties to them.
void copy_live_rows(Cell cell, const void* packed, int64_t dim_padded, int64_t begin, int64_t count, int64_t first,
                    int64_t last, void* to);

}  // namespace longstride::engine::cpu
