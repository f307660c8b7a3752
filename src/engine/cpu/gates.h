// What gates get from the chunks of a CPU backward: sums of the chunks' score gradients, range by range.
// Called by backward.cc.
#pragma once

#include <cmath>

#include "core/half.h"
#include "engine/cpu/kernels.h"
#include "engine/gates.h"

namespace longstride::engine::cpu {

// Element c of a row of narrow cells: groups of 32 stand in the order 0, 16, 1, 17, ... (kernels.h).
inline int64_t narrow_place(int64_t c) { return c / kGroup * kGroup + c % kLanes * 2 + c % kGroup / kLanes; }

// The sums of one (batch row, KV head), or of one part of its tiles.
class GateSums {
 public:
  GateSums() = default;
  GateSums(const Gates* gates, int64_t place, double* sums)
      : gates_(gates), place_(place), first_(gates ? gates->begin[place] : 0), sums_(sums) {}

  bool wanted() const { return gates_ != nullptr; }

  // d_scores: the cells of the chunk's rows, of leading dimension chunk.ld; row r is key key0 + r, column c is query
  // query0 + c. Dead pairs are zero. A pair of weight w counts w times in a score's gradient, and once for the gate.
  void add(Cell cell, const Chunk& chunk, const void* d_scores, int64_t key0, int64_t query0) const {
    const double share = std::exp2(-static_cast<double>(chunk.weight_log2));
    for_each_gate(*gates_, place_, key0 + chunk.row_begin, key0 + chunk.row_end, query0 + chunk.first,
                  query0 + chunk.last, [&](int64_t gate, int64_t k0, int64_t k1, int64_t q0, int64_t q1) {
                    double sum = 0;
                    for (int64_t k = k0; k < k1; ++k) {
                      sum +=
                          static_cast<double>(row_sum(cell, d_scores, (k - key0) * chunk.ld, q0 - query0, q1 - query0));
                    }
                    sums_[gate - first_] += sum * share;
                  });
  }

 private:
  static float row_sum(Cell cell, const void* cells, int64_t row, int64_t begin, int64_t end) {
    float sum = 0;
    if (cell == Cell::kFloat32) {
      const float* values = static_cast<const float*>(cells) + row;
      for (int64_t c = begin; c < end; ++c) sum += values[c];
    } else {
      const core::BFloat16* values = static_cast<const core::BFloat16*>(cells) + row;
      for (int64_t c = begin; c < end; ++c) sum += core::to_float(values[narrow_place(c)]);
    }
    return sum;
  }

  const Gates* gates_ = nullptr;
  int64_t place_ = 0;
  int64_t first_ = 0;
  double* sums_ = nullptr;
};

}  // namespace longstride::engine::cpu
