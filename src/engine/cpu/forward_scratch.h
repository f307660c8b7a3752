// The memory that a forward works in, by head in flight and by thread. Called by forward.cc.
#pragma once

#include <cstdint>

#include "engine/cpu/line_order.h"
#include "engine/cpu/products.h"
#include "engine/cpu/scratch.h"

namespace longstride::engine::cpu {

struct ForwardShape {
  Cell cell = Cell::kFloat32;
  int64_t dim_padded = 0;
  int64_t tile_rows = 0;     // a multiple of kRowQuantum
  int64_t blocks = 0;        // of packed keys, at most, of any level
  int64_t group = 1;         // query heads of a KV head
  int64_t partial_rows = 0;  // of a query head, at most
  bool alibi = false;
  bool when_read = false;  // blocks are packed in a thread's scratch, when a tile comes to them

  int64_t block_bytes() const { return kBlock * dim_padded * cell_bytes(cell); }
};

// What a head in flight keeps: packed keys and values of the current level, partial rows of its query heads.
struct ForwardHead {
  // Null where blocks are packed when they are read.
  char* keys = nullptr;          // [blocks][dim_padded][kBlock], narrow cells in pairs of dim
  char* values = nullptr;        // [blocks][kBlock][dim_padded], narrow cells in pairs of rows
  uint8_t* nonfinite = nullptr;  // [blocks]: the values are not all finite
  uint8_t* needed = nullptr;     // [blocks]: some run of the level reads it
  float* longest = nullptr;      // [blocks], with ALiBi: of the lengths of the keys

  float* partial_out = nullptr;  // [group][partial_rows][dim_padded], not yet divided by the sum
  float* partial_max = nullptr;  // [group][partial_rows]
  float* partial_sum = nullptr;
  int64_t* partial_distance = nullptr;  // with ALiBi: of the keys of partial_max
};

struct ForwardThread {
  char* cells = nullptr;    // a block's rows while packing
  char* queries = nullptr;  // [tile_rows][dim_padded] cells
  float* scores = nullptr;  // [kBandRows][kBlock]
  char* probabilities = nullptr;
  float* out = nullptr;  // [tile_rows][dim_padded]
  float* max = nullptr;
  float* sum = nullptr;
  int64_t* distance = nullptr;  // [tile_rows], with ALiBi: of the keys of max
  float* factors = nullptr;     // [tile_rows]
  char* live_values = nullptr;  // [kBlock][dim_padded] cells
  char* keys = nullptr;         // one block, packed when it is read
  char* values = nullptr;
};

inline ForwardHead carve_head(const ForwardShape& s, Carver& c) {
  ForwardHead h;
  if (!s.when_read) {
    h.keys = c.take<char>(s.blocks * s.block_bytes());
    h.values = c.take<char>(s.blocks * s.block_bytes());
    h.nonfinite = c.take<uint8_t>(s.blocks);
    h.needed = c.take<uint8_t>(s.blocks);
    if (s.alibi) h.longest = c.take<float>(s.blocks);
  }
  h.partial_out = c.take<float>(s.group * s.partial_rows * s.dim_padded);
  h.partial_max = c.take<float>(s.group * s.partial_rows);
  h.partial_sum = c.take<float>(s.group * s.partial_rows);
  if (s.alibi) h.partial_distance = c.take<int64_t>(s.group * s.partial_rows);
  return h;
}

inline ForwardThread carve_thread(const ForwardShape& s, Carver& c) {
  ForwardThread t;
  t.cells = c.take<char>(s.block_bytes());
  t.queries = c.take<char>(s.tile_rows * s.dim_padded * cell_bytes(s.cell));
  t.scores = c.take<float>(kBandRows * kBlock);
  t.probabilities = s.cell == Cell::kFloat32 ? reinterpret_cast<char*>(t.scores)
                                             : c.take<char>(kBandRows * kBlock * cell_bytes(s.cell));
  t.out = c.take<float>(s.tile_rows * s.dim_padded);
  t.max = c.take<float>(s.tile_rows);
  t.sum = c.take<float>(s.tile_rows * kLanes);
  if (s.alibi) t.distance = c.take<int64_t>(s.tile_rows);
  t.factors = c.take<float>(s.tile_rows);
  t.live_values = c.take<char>(s.block_bytes());
  if (s.when_read) {
    t.keys = c.take<char>(s.block_bytes());
    t.values = c.take<char>(s.block_bytes());
  }
  return t;
}

}  // namespace longstride::engine::cpu
