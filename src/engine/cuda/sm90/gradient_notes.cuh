// What a producer tells the consumers of a gradient's kernels. One lane calls these.
#pragma once

#include "engine/cuda/sm90/gradient_values.h"

namespace longstride::engine::cuda::sm90 {

// `head`: of the rows' tensor; `blocks`: whether the tile has any.
__device__ __forceinline__ void write_note(const TilePlace& place, const Tile& tile, int32_t head, int32_t row0,
                                           bool blocks, GradientItemNote& item) {
  item.row0 = row0;
  item.stride = place.stride;
  item.slot = place.slot;
  item.repeat = place.repeat;
  item.rows = tile.rows;
  item.batch = place.batch;
  item.head = head;
  item.merge_begin = tile.merge_begin;
  item.merge_count = tile.merge_count;
  item.blocks = blocks;
  item.stop = 0;
}

// `head`: of queries.
__device__ __forceinline__ void write_note(const ColumnBlock& block, int32_t head, bool last, GradientBlockNote& note) {
  note.column0 = block.column0;
  note.columns = block.columns;
  note.diagonals = block.diagonals;
  note.rows = block.rows;
  note.weight_log2 = block.weight == 1 ? 0.f : log2f(float(block.weight));
  note.masked = block.masked;
  note.last = last;
  note.head = head;
}

}  // namespace longstride::engine::cuda::sm90
