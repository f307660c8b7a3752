// Line order: positions sorted by residue mod L, then by quotient, so that every column progression of a level is a
// contiguous range of packed columns. Called by packing.cc, forward.cc and backward.cc.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/checked.h"
#include "engine/cpu/kernels.h"

namespace longstride::engine::cpu {

// Packed columns come in blocks of so many; a product takes at most one block. Forward and backward in plan GFLOP/s on
// one Sapphire Rapids core (len 4096, dim 64, bands of 64 rows): 64 columns 391 and 493 in bfloat16, 155 and 170 in
// float32; 128 columns 478 and 593, 180 and 183; 256 gain nothing at a stride of 16, where segments give runs of 128.
constexpr int64_t kBlock = 128;

class LineOrder {
 public:
  LineOrder() = default;
  LineOrder(int64_t len, int64_t stride) : len_(len), stride_(stride), quotient_(len / stride), rest_(len % stride) {
    // Lines begin at a group (long ones at a block) where that costs at most an eighth more columns: then runs that
    // begin with a line need no masks. Else they stand end to end.
    const int64_t longest = core::ceil_divide(len, stride);
    for (const int64_t quantum : {kBlock, int64_t{kGroup}}) {
      const int64_t padded = core::ceil_divide(longest, quantum) * quantum;
      if (padded - longest <= longest / 8) {
        pitch_ = padded;
        break;
      }
    }
    const int64_t columns = pitch_ > 0 ? pitch_ * std::min(stride, len) : len;
    blocks_ = core::ceil_divide(columns, kBlock);
  }

  int64_t blocks() const { return blocks_; }
  int64_t columns() const { return blocks_ * kBlock; }
  int64_t stride() const { return stride_; }

  // The packed column of position x; positions x, x + L, x + 2L ... follow one another.
  int64_t column(int64_t x) const { return line_begin(x % stride_) + x / stride_; }

  // Calls segment(row, position, count) for the stretches of block b that hold positions: `count` positions from
  // `position` at stride L stand at rows from `row` of the block. Rows in between are padding.
  template <class Segment>
  void walk(int64_t b, const Segment& segment) const {
    const int64_t end = (b + 1) * kBlock;
    int64_t c = b * kBlock;
    int64_t line = line_of(c);
    while (c < end && line < std::min(stride_, len_)) {
      const int64_t begin = line_begin(line);
      const int64_t i = std::max<int64_t>(c - begin, 0);
      const int64_t count = std::min(line_length(line) - i, end - begin - i);
      if (count > 0) segment(begin + i - b * kBlock, line + i * stride_, count);
      c = line_begin(++line);
    }
  }

 private:
  int64_t line_length(int64_t line) const { return quotient_ + (line < rest_ ? 1 : 0); }
  int64_t line_begin(int64_t line) const {
    return pitch_ > 0 ? line * pitch_ : line * quotient_ + std::min(line, rest_);
  }
  int64_t line_of(int64_t c) const {
    if (pitch_ > 0) return c / pitch_;
    const int64_t longer = rest_ * (quotient_ + 1);
    if (c < longer) return c / (quotient_ + 1);
    return quotient_ > 0 ? rest_ + (c - longer) / quotient_ : stride_;
  }

  int64_t len_ = 0;
  int64_t stride_ = 1;
  int64_t quotient_ = 0;
  int64_t rest_ = 0;
  int64_t pitch_ = 0;  // 0: lines stand end to end
  int64_t blocks_ = 0;
};

}  // namespace longstride::engine::cpu
