// The vectorised loops of the CPU engine: rows in and out of tensors, the two packings of a product's right operand,
// and the elementwise halves of the forward (online softmax) and of the backward. Called by packing.cc, forward.cc and
// backward.cc. Every function picks the best instruction set of the machine when it is called.
//
// Words. A *cell* is an element of a packed operand. *Columns* of a chunk are local: column 0 is the first packed one.
#pragma once

#include <cstdint>
#include <cstdlib>

#include "core/dropout.h"
#include "core/dtype.h"

namespace longstride::engine::cpu {

// What products are computed in. kNarrow: bfloat16 cells, right operands in pairs, float32 accumulation.
enum class Cell { kFloat32, kNarrow };

constexpr int64_t cell_bytes(Cell c) { return c == Cell::kNarrow ? 2 : 4; }
// Columns are packed in groups of 32. As the inner dimension of a narrow product, a group's order is 0, 16, 1, 17, ...:
// column i and column i + 16 make a pair, so that two float vectors become one of narrow cells without a shuffle.
constexpr int kGroup = 32;
// The widest vector used, in floats: rows' partial sums have so many lanes.
constexpr int kLanes = 16;

// Row j of `rows` from base + j * stride (elements of dtype) to to + j * dim_padded cells; the padding is zeroed.
void gather_rows(core::DType, const void* base, int64_t stride, int64_t rows, int64_t dim, bool negate, Cell cell,
                 int64_t dim_padded, void* to);
bool any_nonfinite(Cell, const void* cells, int64_t count);
// rows x dim_padded cells -> dim-major, `width` columns a row, narrow cells in pairs of dim. rows % 16 == 0.
void pack_transposed(Cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to);
// rows x dim_padded cells -> the same row by row; narrow cells in pairs of the group order. rows % kGroup == 0.
void pack_rows(Cell, const void* cells, int64_t rows, int64_t dim_padded, void* to);
// rows x dim_padded cells -> dim_padded x width, row-major, no pairs.
void transpose_cells(Cell, const void* cells, int64_t rows, int64_t dim_padded, int64_t width, void* to);
// Row j of from (ld floats a row), times factors[j], as dtype to base + j * stride (elements).
void store_rows(core::DType, const float* from, int64_t ld, const float* factors, int64_t rows, int64_t dim, void* base,
                int64_t stride);
// to[j] = the dot product of row j of cells with row base + j * stride.
void dot_rows(core::DType, const void* base, int64_t stride, int64_t rows, int64_t dim, Cell cell, int64_t dim_padded,
              const void* cells, float* to);
// to[i] += from[i]
void add(const float* from, int64_t count, float* to);

// Whose draws the pairs of a chunk take.
struct DropoutChunk {
  DropoutChunk() = default;
  DropoutChunk(const core::Dropout& of, uint32_t its_stream)
      : dropout(&of),
        stream(its_stream),
        query_salt(of.salt(stream, core::Side::kQuery, 0)),
        key_salt(of.salt(stream, core::Side::kKey, 0)) {}

  uint32_t salt(core::Side side, int64_t position) const {
    if (position >> 32 != 0) return dropout->salt(stream, side, position);
    return side == core::Side::kQuery ? query_salt : key_salt;
  }

  const core::Dropout* dropout = nullptr;  // null: keep everything
  uint32_t stream = 0;                     // of the batch row and query head
  // Of positions below 2^32. A chunk of its own salts would spend a twentieth of its draws on them.
  uint32_t query_salt = 0;
  uint32_t key_salt = 0;
};

// A chunk of scores: `rows` x `columns` (a multiple of kGroup), of which rows [row_begin, row_end) are live.
struct Chunk {
  int rows = 0;
  int row_begin = 0;
  int row_end = 0;
  int columns = 0;
  int first = 0;  // columns [first, last) belong to the run
  int last = 0;
  // Row r sees c iff r + begin_diagonal <= c < r + end_diagonal.
  int64_t begin_diagonal = 0;
  int64_t end_diagonal = 0;
  // Where the pairs stand, for dropout, ALiBi and gates: row r at row0 + r * stride, column c at column0 + c * stride.
  int64_t row0 = 0;
  int64_t column0 = 0;
  int64_t stride = 1;
  float scale = 1;  // backward only
  float scale_log2 = 1;
  // Forward: scores up to this are at most 16 in powers of 2. There a max may be rounded in base 2 before it is
  // subtracted, 16 * 2^-25 being below the error of the exponential, and may be too low by half of this. Finite.
  float loose = 0;
  float weight_log2 = 0;
  int64_t ld = 0;  // of scores and of every other chunk, in their elements
  DropoutChunk drop;
  // ALiBi: slope times the pair's distance is taken off its scaled score; 0: nothing is.
  float slope = 0;
  float slope_log2 = 0;  // finite

  int64_t distance(int64_t r, int64_t c) const { return std::abs(row0 + r * stride - (column0 + c * stride)); }
};

// Online softmax of one chunk: reads scores, writes probabilities (cells; for kFloat32 they may be the scores' memory),
// brings max, sum and the rows of `out` up to date. Probabilities are relative to max; dead ones are zero. The product
// with V comes after. Returns whether any probability counts: false is certain, true need not be.
struct SoftmaxRows {
  float* max = nullptr;  // of the scores as they are, not yet scaled; -inf: nothing seen
  // Of the key whose score is `max`: with a slope that is the one whose score less its bias is the greatest.
  int64_t* distance = nullptr;
  float* sum = nullptr;  // kLanes partial sums a row
  float* out = nullptr;
  int64_t out_ld = 0;
};
bool softmax_chunk(Cell, const Chunk&, const float* scores, void* probabilities, const SoftmaxRows&);

// What rounding a score of this size in base 2 costs, 11 * log2 e * 2^-25, is below the error of the exponential.
constexpr float kLooseLse = 11.0f;

// The backward of one transposed chunk (rows are keys, columns queries). In: scores and d_probabilities (dO . v). Out:
// probabilities and d_scores (left operands, cells), and d_scores_pairs (right operand: narrow pairs of rows; for
// kFloat32 d_scores serves). For kFloat32 the outputs may be the inputs' memory.
struct GradientColumns {
  const float* lse = nullptr;    // +inf: the query sees nothing
  const float* delta = nullptr;  // sum(dO * out) - d_lse
  // There is no slope, every lse of a query that sees anything is at most kLooseLse, and scale_log2 is finite: base 2
  // may come first.
  bool loose = false;
  float gain = 1;  // out_scale / (1 - p), what a probability is multiplied with in out
};
void gradient_chunk(Cell, const Chunk&, const float* scores, const float* d_probabilities, const GradientColumns&,
                    void* probabilities, void* d_scores, void* d_scores_pairs);

// C[m x n] (+)= A[m x k] * B[k x n], float32, row-major.
void multiply(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, float* c,
              int64_t ldc, bool accumulate);
// C[m x n] = A[m x k] * B[n x k]^T for a few rows of A: B is read as it lies. n is a multiple of 4, k of kLanes.
void multiply_transposed(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
                         float* c, int64_t ldc);

}  // namespace longstride::engine::cpu
