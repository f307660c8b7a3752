// Which pieces of a tile count for nothing under ALiBi, told before their scores are computed: by how far they are, and
// by how long queries and keys are. Called by forward.cc.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

#include "engine/cpu/chunks.h"
#include "engine/cpu/kernels.h"

namespace longstride::engine::cpu {

// Finite, so that a distance of 0 takes nothing off.
inline float slope_log2(float slope) {
  constexpr double kMost = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(slope * std::numbers::log2e, -kMost, kMost));
}

// The greatest Euclidean length of rows of cells; NaN if one has NaN. `squares`: room for a float a row.
inline float longest_row(Cell cell, const void* cells, int64_t rows, int64_t dim_padded, float* squares) {
  const core::DType dtype = cell == Cell::kNarrow ? core::DType::kBFloat16 : core::DType::kFloat32;
  dot_rows(dtype, cells, dim_padded, rows, dim_padded, cell, dim_padded, cells, squares);
  float longest = 0;
  for (int64_t j = 0; j < rows; ++j) {
    if (squares[j] > longest || std::isnan(squares[j])) longest = squares[j];
  }
  return std::sqrt(longest);
}

// Of the rows of a band, whose references (SoftmaxRows) only rise while pieces are added.
class BiasBound {
 public:
  // scale_log2: what a product of query and key is multiplied with to be a power of 2. `max` and as many distances are
  // read whenever a piece is asked for.
  BiasBound(float longest_query, float scale_log2, float slope, std::span<const float> max, const int64_t* distance)
      : most_(longest_query * scale_log2),
        scale_log2_(scale_log2),
        slope_log2_(slope_log2(slope)),
        max_(max),
        distance_(distance) {}

  // Whether the exponents of all pairs of a piece whose keys are at least `gap` away and at most so long are far enough
  // below their rows' references that 2 to them is 0: what softmax_chunk would find. False under slopes below 0, whose
  // gaps are negative, and while some row has seen nothing.
  bool counts_for_nothing(float longest_key, int64_t gap, float weight_log2) {
    constexpr float kZero = 126;  // exp2_of
    const float bias = slope_log2_ * static_cast<float>(gap);
    if (!(slope_log2_ > 0 && bias > kZero)) return false;  // the rows need not be looked at
    const float most = most_ * longest_key;
    const auto is_below = [&] {
      // The scores and this sum are rounded.
      const float margin = 4 + 1e-4f * (most + bias + std::abs(lowest_));
      return most + weight_log2 - bias - lowest_ < -kZero - margin;
    };
    if (is_below()) return true;
    lowest_ = std::numeric_limits<float>::infinity();
    for (size_t r = 0; r < max_.size(); ++r) {
      const float reference = max_[r] * scale_log2_ - slope_log2_ * static_cast<float>(distance_[r]);
      if (!(reference >= lowest_)) lowest_ = reference;
      if (std::isnan(reference)) return lowest_ = kNothing, false;
    }
    return is_below();
  }

 private:
  static constexpr float kNothing = -std::numeric_limits<float>::infinity();
  float most_, scale_log2_, slope_log2_;
  std::span<const float> max_;
  const int64_t* distance_;
  float lowest_ = kNothing;  // of the rows' references, as they were when it was looked at: as exponents
};

// Of a tile, band by band of kBandRows rows.
class BiasBounds {
 public:
  BiasBounds(float longest_query, float scale_log2, float slope, std::span<const float> max, const int64_t* distance) {
    for (size_t low = 0; low < max.size(); low += kBandRows) {
      const std::span<const float> band = max.subspan(low, std::min<size_t>(kBandRows, max.size() - low));
      bands_.emplace_back(longest_query, scale_log2, slope, band, distance + low);
    }
  }
  bool count_for_nothing(const BiasedPiece& p, float longest_key) {
    const float weight_log2 = std::log2(static_cast<float>(p.run->weight));
    return bands_[p.piece.row_begin / kBandRows].counts_for_nothing(longest_key, p.gap, weight_log2);
  }

 private:
  std::vector<BiasBound> bands_;
};

}  // namespace longstride::engine::cpu
