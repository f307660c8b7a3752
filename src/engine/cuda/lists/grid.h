// How a list of blocks becomes tiles and runs: functions that the kernels of plan.cu and the tests on the host both
// run, so that what is checked pair by pair against the host's plan is what the device does.
//
// Of every (batch row, KV head), a *place*, there is a matrix of bits: a bit for each block of rows and block of
// columns, set if the list names the pair. Duplicates are gone then, and a transposed plan is the same with rows and
// columns exchanged. Rows of bits are cut into tiles: several blocks of rows a tile where blocks are small, several
// tiles a block of rows where they are large. A run is a stretch of columns in which the same blocks of rows of the
// tile see all.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/checked.h"
#include "engine/contract.h"
#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda::lists {

// Of all places; positions are the plan's. 32 bits suffice: see fits().
struct Grid {
  static constexpr int kMostTileBlocks = 32;  // a lane of a warp has one each
  static constexpr int64_t kMostBytes = int64_t{1} << 30;
  static constexpr int64_t kMostRuns = kMostBytes / static_cast<int64_t>(sizeof(Run));

  int32_t batch = 0, kv_heads = 0;
  int32_t block_size = 1, blocks = 0;  // of all positions
  bool causal = false, transposed = false;
  int32_t row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;
  int32_t row_block0 = 0, row_blocks = 0;  // that have rows
  int32_t column_block0 = 0, column_blocks = 0;
  int32_t words = 0;                        // of 32 columns, a row of bits
  int32_t tile_blocks = 1, tile_parts = 1;  // blocks of rows a tile, or tiles a block of rows: one of them is 1
  int32_t part_rows = 0, first_part = 0;    // rows of a part; which part of the first block the first tile is
  int32_t tiles = 0, column_block = 1;      // of a place; Geometry::column_block

  LONGSTRIDE_DEVICE int64_t places() const { return int64_t{batch} * kv_heads; }
  int64_t bit_words() const { return places() * row_blocks * words; }

  // Runs for which there is memory: as many as `rows` rows of the list can make, each of which may be of all places. A
  // run has a pair of blocks that no other has; and of a tile's every second column, or with several blocks of rows
  // each, begins one. But no more than kMostRuns, which lists with a place a row do not exceed (takes()), nor others
  // that are not nearly dense.
  int64_t most_runs(int64_t rows) const {
    const int64_t by_rows = core::saturating_multiply(core::saturating_multiply(rows, places()), tile_parts);
    const int64_t of_tile =
        tile_blocks == 1 ? (column_blocks + 1) / 2 : int64_t{column_blocks} * ((tile_blocks + 1) / 2);
    return std::min({by_rows, core::saturating_multiply(places() * tiles, of_tile), kMostRuns});
  }
};

// Whether a grid can be made: where not, numbers would not fit, or a warp would not have a lane a block.
inline bool fits(const Problem& p, int64_t block_size, const Geometry& geometry) {
  return p.len_k <= int64_t{1} << 30 && block_size * Grid::kMostTileBlocks >= geometry.tile_rows;
}

inline Grid make_grid(const Problem& p, int64_t block_size, bool causal, const Geometry& geometry,
                      Direction direction) {
  const auto narrow = [](int64_t n) { return static_cast<int32_t>(n); };
  Grid g;
  g.batch = narrow(p.batch);
  g.kv_heads = narrow(p.kv_heads);
  // A block of all positions is the same whatever its size.
  g.block_size = narrow(std::min(block_size, std::max<int64_t>(p.len_k, geometry.tile_rows)));
  g.blocks = narrow(core::ceil_divide(p.len_k, int64_t{g.block_size}));
  g.causal = causal;
  g.transposed = direction == Direction::kTransposed;
  const int32_t query_begin = narrow(p.query_start), query_end = narrow(p.query_start + p.len_q);
  g.row_begin = g.transposed ? 0 : query_begin;
  g.row_end = g.transposed ? narrow(p.len_k) : query_end;
  g.column_begin = g.transposed ? query_begin : 0;
  g.column_end = g.transposed ? query_end : narrow(p.len_k);
  const auto blocks_between = [&](int32_t begin, int32_t end) {
    return end <= begin ? 0 : (end - 1) / g.block_size - begin / g.block_size + 1;
  };
  g.row_block0 = g.row_begin / g.block_size;
  g.row_blocks = blocks_between(g.row_begin, g.row_end);
  g.column_block0 = g.column_begin / g.block_size;
  g.column_blocks = blocks_between(g.column_begin, g.column_end);
  g.words = (g.column_blocks + 31) / 32;
  g.column_block = geometry.column_block;
  if (g.block_size <= geometry.tile_rows) {
    g.tile_blocks = geometry.tile_rows / g.block_size;
    g.part_rows = g.tile_blocks * g.block_size;
    g.tiles = (g.row_blocks + g.tile_blocks - 1) / g.tile_blocks;
  } else {
    g.tile_parts = (g.block_size - 1) / geometry.tile_rows + 1;
    g.part_rows = (g.block_size - 1) / g.tile_parts + 1;
    g.first_part = (g.row_begin - g.row_block0 * g.block_size) / g.part_rows;
    if (g.row_blocks > 0) {
      const int32_t last_block = g.row_block0 + g.row_blocks - 1;
      const int32_t last_part = (g.row_end - 1 - last_block * g.block_size) / g.part_rows;
      g.tiles = (g.row_blocks - 1) * g.tile_parts + last_part - g.first_part + 1;
    }
  }
  return g;
}

// A row of the list, {batch row or -1, KV head or -1, query block, key block}, is none that a grid has.
LONGSTRIDE_DEVICE bool is_beyond(const Grid& g, const int32_t* row) {
  return row[0] < -1 || row[0] >= g.batch || row[1] < -1 || row[1] >= g.kv_heads || row[2] < 0 || row[2] >= g.blocks ||
         row[3] < 0 || row[3] >= g.blocks;
}

// Sets the bits of a row of the list: set(word, bit).
template <class Set>
LONGSTRIDE_DEVICE void mark(const Grid& g, const int32_t* row, const Set& set) {
  if (g.causal && row[3] > row[2]) return;
  const int32_t r = row[g.transposed ? 3 : 2] - g.row_block0, c = row[g.transposed ? 2 : 3] - g.column_block0;
  if (r < 0 || r >= g.row_blocks || c < 0 || c >= g.column_blocks) return;
  const int32_t b_begin = row[0] < 0 ? 0 : row[0], b_end = row[0] < 0 ? g.batch : row[0] + 1;
  const int32_t j_begin = row[1] < 0 ? 0 : row[1], j_end = row[1] < 0 ? g.kv_heads : row[1] + 1;
  for (int32_t b = b_begin; b < b_end; ++b)
    for (int32_t j = j_begin; j < j_end; ++j)
      set(((int64_t{b} * g.kv_heads + j) * g.row_blocks + r) * g.words + c / 32, uint32_t{1} << c % 32);
}

// The positions of a tile of a place.
struct TileRows {
  int32_t row0, end;
  int32_t block_begin, block_end;  // of the grid's rows of bits

  LONGSTRIDE_DEVICE TileRows(const Grid& g, int32_t tile) {
    const int32_t part = tile + g.first_part;
    block_begin = g.tile_parts > 1 ? part / g.tile_parts : tile * g.tile_blocks;
    block_end = block_begin + g.tile_blocks < g.row_blocks ? block_begin + g.tile_blocks : g.row_blocks;
    const int32_t of_block = (g.row_block0 + block_begin) * g.block_size;
    const int32_t begin = of_block + part % g.tile_parts * g.part_rows;
    const int32_t most = g.tile_parts > 1 && begin + g.part_rows > of_block + g.block_size ? of_block + g.block_size
                                                                                           : begin + g.part_rows;
    row0 = begin > g.row_begin ? begin : g.row_begin;
    end = most < g.row_end ? most : g.row_end;
  }
};

// The run of columns [column_begin, column_end) of bits that blocks [first, last) of the tile's see; `length`: of the
// batch row. It has no columns where no pair is left.
LONGSTRIDE_DEVICE Run run_of(const Grid& g, const TileRows& tile, int32_t first, int32_t last, int32_t column_begin,
                             int32_t column_end, int32_t length) {
  const auto least = [](int32_t a, int32_t b) { return a < b ? a : b; };
  const auto most = [](int32_t a, int32_t b) { return a < b ? b : a; };
  const int32_t block0 = g.row_block0 + tile.block_begin;
  const int32_t row_begin = most((block0 + first) * g.block_size, tile.row0);  // positions
  const int32_t row_end = least(least((block0 + last) * g.block_size, tile.end), length);
  int32_t begin = most((g.column_block0 + column_begin) * g.block_size, g.column_begin);
  int32_t end = least(least((g.column_block0 + column_end) * g.block_size, g.column_end), length);
  Run run;
  run.column0 = begin;
  run.diagonal = g.transposed ? -Run::kEverything : Run::kEverything;
  if (row_begin >= row_end) return run;
  if (g.causal && g.transposed) {  // queries from each key on
    begin = most(begin, row_begin);
    if (row_end - 1 > begin) run.diagonal = tile.row0 - begin;
    run.column0 = begin;
  } else if (g.causal) {  // keys up to each query
    end = least(end, row_end);
    if (end > row_begin + 1) run.diagonal = tile.row0 - begin + 1;
  }
  if (begin >= end) return run;
  run.columns = end - begin;
  run.row_begin = static_cast<int16_t>(row_begin - tile.row0);
  run.row_end = static_cast<int16_t>(row_end - tile.row0);
  return run;
}

// Of a word that is not 0.
LONGSTRIDE_DEVICE int32_t first_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(word)) - 1;
#else
  return std::countr_zero(word);
#endif
}
LONGSTRIDE_DEVICE int32_t last_bit(uint32_t word) {
#if defined(__CUDA_ARCH__)
  return 31 - __clz(static_cast<int>(word));
#else
  return 31 - std::countl_zero(word);
#endif
}

// The rows of bits of a tile.
class TileBits {
 public:
  LONGSTRIDE_DEVICE TileBits(const Grid& g, const uint32_t* of_place, const TileRows& tile)
      : bits_(of_place + int64_t{tile.block_begin} * g.words),
        words_(g.words),
        blocks_(tile.block_end - tile.block_begin),
        columns_(g.column_blocks) {}

  // emit(first block, last block + 1, first column, last column + 1) of every run that begins in a word, in the order
  // of its columns; blocks counted from the tile's first.
  template <class Emit>
  LONGSTRIDE_DEVICE void for_each_run(int32_t word, const Emit& emit) const {
    for (uint32_t begins = changes(word); begins != 0; begins &= begins - 1) {
      const int32_t bit = first_bit(begins);
      int32_t end = -1;
      for (int32_t r = 0; r < blocks_;) {
        if (!at(r, word, bit)) {
          ++r;
          continue;
        }
        const int32_t first = r;
        while (r < blocks_ && at(r, word, bit)) ++r;
        if (end < 0) end = next_change(word, bit);
        emit(first, r, word * 32 + bit, end);
      }
    }
  }

  // The column after the last one that a block of rows sees; 0: it sees none.
  LONGSTRIDE_DEVICE int32_t columns_end(int32_t block) const {
    for (int32_t word = words_ - 1; word >= 0; --word) {
      const uint32_t bits = load(block, word);
      if (bits != 0) return word * 32 + last_bit(bits) + 1;
    }
    return 0;
  }

 private:
  LONGSTRIDE_DEVICE uint32_t load(int32_t block, int32_t word) const { return bits_[int64_t{block} * words_ + word]; }
  LONGSTRIDE_DEVICE bool at(int32_t block, int32_t word, int32_t bit) const { return load(block, word) >> bit & 1; }

  // Columns of a word in which some block of rows sees other than in the column before.
  LONGSTRIDE_DEVICE uint32_t changes(int32_t word) const {
    uint32_t all = 0;
    for (int32_t r = 0; r < blocks_; ++r) {
      const uint32_t bits = load(r, word), before = word > 0 ? load(r, word - 1) >> 31 : 0;
      all |= bits ^ (bits << 1 | before);
    }
    return all;
  }

  LONGSTRIDE_DEVICE int32_t next_change(int32_t word, int32_t bit) const {
    uint32_t later = bit == 31 ? 0 : changes(word) >> (bit + 1) << (bit + 1);
    while (later == 0) {
      if (++word == words_) return columns_;
      later = changes(word);
    }
    const int32_t column = word * 32 + first_bit(later);
    return column < columns_ ? column : columns_;
  }

  const uint32_t* bits_;
  int32_t words_, blocks_, columns_;
};

// Whether every row of a block of the tile's is seen by a column, of a transposed grid; "no" may be said of one that
// is.
LONGSTRIDE_DEVICE bool all_seen(const Grid& g, const TileRows& tile, const TileBits& bits, int32_t block,
                                int32_t length) {
  const auto least = [](int32_t a, int32_t b) { return a < b ? a : b; };
  const int32_t columns = bits.columns_end(block);
  const int32_t row_end = least((g.row_block0 + tile.block_begin + block + 1) * g.block_size, tile.end);
  const int32_t begin = (g.column_block0 + columns - 1) * g.block_size;
  const int32_t end = least(least(begin + g.block_size, g.column_end), length);
  if (columns == 0 || row_end > length || end <= begin || end <= g.column_begin) return false;
  return !g.causal || end >= row_end;  // the last query stands at the last key, or behind it
}

// What a tile takes, in halves of a block of columns; beside its blocks two and a half (lanes.cc).
inline constexpr int32_t kTileCost = 5;
LONGSTRIDE_DEVICE int32_t cost_of(const Grid& g, const Run& run) {
  const Direction d = g.transposed ? Direction::kTransposed : Direction::kForward;
  if (run.columns == 0) return 0;
  const int64_t begin = run.row_begin + run.begin_diagonal(d), end = run.row_end - 1 + run.end_diagonal(d);
  const auto first = static_cast<int32_t>(begin > 0 ? begin : 0);
  const auto last = static_cast<int32_t>(end < run.columns ? end : run.columns);
  return last > first ? 2 * ((last - first + g.column_block - 1) / g.column_block) : 0;
}

}  // namespace longstride::engine::cuda::lists
