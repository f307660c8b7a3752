// Cuts a run into the pieces that one product computes. Called by forward.cc and backward.cc. A piece lies in one block
// of packed columns, begins and ends at a group, and names the rows of the tile that see any of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/cpu/line_order.h"
#include "engine/cpu/products.h"
#include "longstride/plan.h"

namespace longstride::engine::cpu {

struct Piece {
  int64_t block = 0;
  int begin = 0;  // columns [begin, begin + columns) of the block, both multiples of kGroup
  int columns = 0;
  int first = 0;  // of these, [first, last) are seen by a row of the tile
  int last = 0;
  int row_begin = 0;  // rows of the tile that see a column of the piece
  int row_end = 0;
  int64_t begin_diagonal = 0;  // of tile row 0 and the piece's column 0 (as in Chunk)
  int64_t end_diagonal = 0;
};

// A piece that a diagonal crosses is cut to so many columns, so that fewer masked pairs are computed. The forward
// cuts it by rows instead (kDiagonalRows), so that a row's output is added to once a block.
constexpr int64_t diagonal_columns(Direction d) { return d == Direction::kForward ? kBlock : 32; }

// Calls piece(Piece) for one residue class of a run whose column 0 is packed column `begin`.
template <class Visit>
void for_each_piece(const Run& run, int64_t begin, Direction direction, const Visit& visit) {
  const int64_t begin_diagonal = run.begin_diagonal(direction), end_diagonal = run.end_diagonal(direction);
  const int64_t cut = diagonal_columns(direction);
  // Columns of the run that any row sees.
  const int64_t low = std::max<int64_t>(0, run.row_begin + begin_diagonal);
  const int64_t high = std::min(run.columns, run.row_end - 1 + end_diagonal);
  int64_t at = low;
  while (at < high) {
    Piece p;
    p.block = (begin + at) / kBlock;
    const int64_t block_column = p.block * kBlock - begin;  // of the run, of the block's first column
    int64_t stop = std::min(high, block_column + kBlock);
    const bool crossed = run.row_end - 1 + begin_diagonal > at || run.row_begin + end_diagonal < stop;
    if (crossed) {
      stop = std::min(stop, ((at - block_column) / cut + 1) * cut + block_column);
    }
    p.row_begin = static_cast<int>(std::max<int64_t>(run.row_begin, at - end_diagonal + 1));
    p.row_end = static_cast<int>(std::min<int64_t>(run.row_end, stop - begin_diagonal));
    p.begin = static_cast<int>((at - block_column) / kGroup * kGroup);
    p.columns = static_cast<int>((stop - block_column - p.begin + kGroup - 1) / kGroup * kGroup);
    const int64_t column0 = block_column + p.begin;
    p.first = static_cast<int>(at - column0);
    p.last = static_cast<int>(stop - column0);
    p.begin_diagonal = begin_diagonal - column0;
    p.end_diagonal = end_diagonal - column0;
    visit(p);
    at = stop;
  }
}

// The rows of one band of a piece of a tile whose scores have biases, with the position of its column 0.
struct BiasedPiece {
  const Run* run;
  Piece piece;
  int64_t column0;
  int64_t gap;
};

// What pieces are sorted by, so that those with the greatest biases come first: then the greatest score of a row seldom
// rises, and most of what is far counts for nothing. The distance between rows and columns, or less it if farther is
// greater.
inline int64_t bias_gap(const Piece& piece, int64_t row0, int64_t rows, int64_t column0, int64_t stride, float slope) {
  const int64_t after = column0 + piece.first * stride - (row0 + (rows - 1) * stride);
  const int64_t before = row0 - (column0 + (piece.last - 1) * stride);
  const int64_t gap = std::max<int64_t>({0, after, before});
  return slope > 0 ? gap : -gap;
}

// Appends a piece band by band of kBandRows rows: at a large stride the rows of a tile are far from each other.
inline void append_bands(const Run& run, const Piece& piece, int64_t row0, int64_t column0, int64_t stride, float slope,
                         std::vector<BiasedPiece>& bands) {
  for (int row = piece.row_begin; row < piece.row_end;) {
    Piece band = piece;
    band.row_begin = row;
    row = band.row_end = std::min(piece.row_end, (row / kBandRows + 1) * kBandRows);
    const int64_t first = row0 + band.row_begin * stride;
    bands.push_back({&run, band, column0, bias_gap(band, first, row - band.row_begin, column0, stride, slope)});
  }
}

}  // namespace longstride::engine::cpu
