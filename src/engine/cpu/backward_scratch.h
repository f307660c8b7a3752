// The memory that a backward works in, by head in flight and by thread. Called by backward.cc.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/cpu/line_order.h"
#include "engine/cpu/products.h"
#include "engine/cpu/scratch.h"

namespace longstride::engine::cpu {

struct BackwardShape {
  Cell cell = Cell::kFloat32;
  int64_t dim_padded = 0;
  int64_t tile_rows = 0;
  int64_t blocks = 0;      // of packed queries, at most, of any level
  int64_t parts = 1;       // into which a head's key tiles are dealt
  int64_t gates = 0;       // of a KV head, at most
  int64_t query_sums = 0;  // len_q if dQ is summed over levels
  int64_t key_sums = 0;    // len_k if dK and dV are summed over levels or query heads
  int64_t part_rows = 0;   // slots that parts of tiles may keep rows in
};

// What a head in flight keeps: of the current query head and level packed queries and dO; sums over levels and heads.
struct BackwardHead {
  char* queries_t = nullptr;  // [blocks][dim_padded][kBlock], narrow cells in pairs of dim
  char* d_out_t = nullptr;
  char* queries = nullptr;  // [blocks][kBlock][dim_padded], narrow cells in pairs of rows
  char* d_out = nullptr;
  uint8_t* nonfinite = nullptr;  // [blocks]: the queries or dO are not all finite
  uint8_t* large = nullptr;      // [blocks]: some lse is beyond kLooseLse
  float* lse = nullptr;          // [columns]
  float* delta = nullptr;        // [columns]
  float* dq_t = nullptr;         // [parts][blocks][dim_padded][kBlock]
  float* dq = nullptr;           // [query_sums][dim_padded]
  float* dk = nullptr;           // [key_sums][dim_padded]
  float* dv = nullptr;
  float* part_dk = nullptr;  // [part_rows][dim_padded]: other parts of the tile have the same rows
  float* part_dv = nullptr;
  double* gate_sums = nullptr;  // [parts][gates]
};

struct BackwardThread {
  char* cells = nullptr;  // a block's rows while packing
  char* keys = nullptr;   // [tile_rows][dim_padded]
  char* values = nullptr;
  char* keys_t = nullptr;   // [dim_padded][tile_rows]
  float* scores = nullptr;  // [kBandRows][kBlock]
  float* d_probabilities = nullptr;
  char* probabilities = nullptr;
  char* d_scores = nullptr;
  char* d_score_pairs = nullptr;
  float* dk = nullptr;  // [tile_rows][dim_padded]
  float* dv = nullptr;
  char* live_queries = nullptr;  // [kBlock][dim_padded]
  char* live_d_out = nullptr;
  char* live_keys_t = nullptr;    // [dim_padded][kBandRows]
  float* live_product = nullptr;  // [dim_padded][kBlock]
  float* factors = nullptr;       // [max(tile_rows, kBlock)]
};

inline BackwardHead carve_head(const BackwardShape& s, Carver& c) {
  const int64_t cells = s.blocks * kBlock * s.dim_padded;
  const int64_t cells_bytes = cells * cell_bytes(s.cell);
  BackwardHead h;
  h.queries_t = c.take<char>(cells_bytes);
  h.d_out_t = c.take<char>(cells_bytes);
  h.queries = c.take<char>(cells_bytes);
  h.d_out = c.take<char>(cells_bytes);
  h.nonfinite = c.take<uint8_t>(s.blocks);
  h.large = c.take<uint8_t>(s.blocks);
  h.lse = c.take<float>(s.blocks * kBlock);
  h.delta = c.take<float>(s.blocks * kBlock);
  h.dq_t = c.take<float>(s.parts * cells);
  h.dq = c.take<float>(s.query_sums * s.dim_padded);
  h.dk = c.take<float>(s.key_sums * s.dim_padded);
  h.dv = c.take<float>(s.key_sums * s.dim_padded);
  h.part_dk = c.take<float>(s.part_rows * s.dim_padded);
  h.part_dv = c.take<float>(s.part_rows * s.dim_padded);
  h.gate_sums = c.take<double>(s.parts * s.gates);
  return h;
}

inline BackwardThread carve_thread(const BackwardShape& s, Carver& c) {
  const int64_t size = cell_bytes(s.cell);
  BackwardThread t;
  t.cells = c.take<char>(kBlock * s.dim_padded * size);
  t.keys = c.take<char>(s.tile_rows * s.dim_padded * size);
  t.values = c.take<char>(s.tile_rows * s.dim_padded * size);
  t.keys_t = c.take<char>(s.tile_rows * s.dim_padded * size);
  t.scores = c.take<float>(kBandRows * kBlock);
  t.d_probabilities = c.take<float>(kBandRows * kBlock);
  if (s.cell == Cell::kFloat32) {  // in place
    t.probabilities = reinterpret_cast<char*>(t.scores);
    t.d_scores = reinterpret_cast<char*>(t.d_probabilities);
    t.d_score_pairs = t.d_scores;
  } else {
    t.probabilities = c.take<char>(kBandRows * kBlock * size);
    t.d_scores = c.take<char>(kBandRows * kBlock * size);
    t.d_score_pairs = c.take<char>(kBandRows * kBlock * size);
  }
  t.dk = c.take<float>(s.tile_rows * s.dim_padded);
  t.dv = c.take<float>(s.tile_rows * s.dim_padded);
  t.live_queries = c.take<char>(kBlock * s.dim_padded * size);
  t.live_d_out = c.take<char>(kBlock * s.dim_padded * size);
  t.live_keys_t = c.take<char>(kBandRows * s.dim_padded * size);
  t.live_product = c.take<float>(kBlock * s.dim_padded);
  t.factors = c.take<float>(std::max<int64_t>(s.tile_rows, kBlock));
  return t;
}

}  // namespace longstride::engine::cpu
