// Which product a call uses, and in what cells: the caller's MicroGemm where it takes them, else the portable one.
// Called by forward.cc and backward.cc.
#pragma once

#include <cstdint>

#include "engine/contract.h"
#include "engine/cpu/kernels.h"

namespace longstride::engine::cpu {

// Rows of a tile that one product computes. With blocks of 128 columns, bands of 128 rows measured the same in bfloat16
// and a tenth worse in float32, and bands of 64 waste less at the diagonal.
constexpr int kBandRows = 64;
// The forward takes so many rows at a time where the diagonal crosses a piece, with the columns that they see. Against
// whole bands this took 8 % less time in float32 and in bfloat16 (causal, len 32768, dim 64, two cores of an EPYC).
constexpr int kDiagonalRows = 32;
// Row counts of products are rounded up to this, so that few shapes occur.
constexpr int kRowQuantum = 16;

class Products {
 public:
  Products(const Workspace& w, core::DType dtype) {
    // float16 is computed in float32: its range is too small for unscaled gradients, and without hardware for it its
    // products are slower than those of float32.
    if (w.gemm && dtype == core::DType::kBFloat16 && w.gemm->takes(dtype) && w.gemm->wants_pairs(dtype)) {
      gemm_ = w.gemm;
      cell_ = Cell::kNarrow;
    } else if (w.gemm && w.gemm->takes(core::DType::kFloat32) && !w.gemm->wants_pairs(core::DType::kFloat32)) {
      gemm_ = w.gemm;
    }
  }

  Cell cell() const { return cell_; }
  int64_t cell_size() const { return cell_bytes(cell_); }
  // Cells of one packed row: whole vectors.
  int64_t padded(int64_t dim) const {
    const int64_t quantum = cell_ == Cell::kNarrow ? 32 : 16;
    return (dim + quantum - 1) / quantum * quantum;
  }

  // C (+)= A * B. a and b point at cells; b is packed (in pairs if narrow).
  void run(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb, float* c,
           int64_t ldc, bool accumulate) const {
    if (gemm_) {
      const core::DType dtype = cell_ == Cell::kNarrow ? core::DType::kBFloat16 : core::DType::kFloat32;
      gemm_->run(dtype, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
    } else {
      multiply(m, n, k, static_cast<const float*>(a), lda, static_cast<const float*>(b), ldb, c, ldc, accumulate);
    }
  }
  // A thread is done with a series of products.
  void release() const {
    if (gemm_) gemm_->release();
  }

 private:
  const MicroGemm* gemm_ = nullptr;
  Cell cell_ = Cell::kFloat32;
};

// `cells` + `count` cells.
inline const char* at_cell(const void* cells, int64_t count, Cell cell) {
  return static_cast<const char*>(cells) + count * cell_bytes(cell);
}
inline char* at_cell(void* cells, int64_t count, Cell cell) {
  return static_cast<char*>(cells) + count * cell_bytes(cell);
}

}  // namespace longstride::engine::cpu
