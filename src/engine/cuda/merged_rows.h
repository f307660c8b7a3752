// Which slots the rows of a base tile find their partial results in, quickly.
#pragma once

#include <cstdint>

#include "engine/cuda/device_plan.h"

namespace longstride::engine::cuda {

// 1 / x, to within two units of its last place.
LONGSTRIDE_DEVICE float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  return __fdividef(1.f, x);
#else
  return 1.f / x;
#endif
}

// Merge::slot_of_row for several rows, without a division each: to a kernel one is as much as twenty other
// instructions. Rows and row_step are below 2^15.
class MergedRows {
 public:
  // `first`: slots that lie before those of the head.
  LONGSTRIDE_DEVICE MergedRows(const Merge& merge, int64_t first, int32_t repeat)
      : first_(first + merge.slot + merge.slot_shift * repeat),
        slot_step_(merge.slot_step),
        row_begin_(merge.row_begin),
        row_step_(merge.row_step),
        rows_(merge.rows),
        steps_a_row_(reciprocal(static_cast<float>(merge.row_step))) {}

  // -1: row j of the tile is none of them.
  LONGSTRIDE_DEVICE int64_t slot(int32_t j) const {
    const int32_t past = j - row_begin_;
    const auto n = static_cast<int32_t>((static_cast<float>(past) + 0.5f) * steps_a_row_);
    return past < 0 || n >= rows_ || n * row_step_ != past ? -1 : first_ + int64_t{n} * slot_step_;
  }

 private:
  int64_t first_;
  int32_t slot_step_, row_begin_, row_step_, rows_;
  float steps_a_row_;
};

}  // namespace longstride::engine::cuda
