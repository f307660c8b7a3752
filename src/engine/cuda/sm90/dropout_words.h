// Where the words of dropout (core/dropout.h) of a block's columns lie in shared memory: the producer warp makes them
// once, and all consumer threads read them. Used by the forward and the backward kernels.
#pragma once

#include <cstdint>

namespace longstride::engine::cuda::sm90 {

// A thread has columns 8 n + 2 c + i of a block, c its number among four. Those of one c lie together, kWords words to
// a column (kWords 2: the words of n, then their shares of the draw), so that it reads 16 bytes at a time. Four words
// between quarters keep them in banks of their own.
template <int kColumns_, int kWords_>
struct ColumnWords {
  static constexpr int kColumns = kColumns_, kWords = kWords_;
  static constexpr int kQuarter = kWords * kColumns / 4 + 4;
  static constexpr int kSize = 4 * kQuarter;
  // Of the column's word; its share lies 2 further.
  static constexpr int place(int column) { return column % 8 / 2 * kQuarter + column / 8 * 2 * kWords + column % 2; }
  // Of the 16 bytes number `four` of a thread with columns `column0` and on.
  static constexpr int fours(int column0, int four) { return column0 % 8 / 2 * kQuarter + 4 * four; }
};

struct NoWords {};  // of a kernel without dropout

}  // namespace longstride::engine::cuda::sm90
