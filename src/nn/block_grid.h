// The grid of blocks of one call of a scorer, and what of it lies on the call's device. Called by block_scorer.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace longstride::nn {

// What depends on the lengths of a call alone, on its device.
struct GridTables {
  at::Tensor lengths;         // [rows]
  at::Tensor filled;          // [rows, width]: positions of each block, at least 1
  at::Tensor there;           // bool [rows, 1, width, width]: which pairs of blocks there are
  at::Tensor diagonal;        // bool [width, width]
  at::Tensor least, most;     // [rows, 1, width, 1]: blocks that each row of blocks takes at least, and at most
  int64_t taken_at_most = 0;  // of all rows, a KV head
};

// A batch row has nb blocks of its own, fewer than the widest has if it is shorter.
struct Grid {
  int64_t block_size = 1;
  int64_t len = 0;
  bool causal = false;
  std::vector<int64_t> lengths;  // one, or one per batch row
  double least = 0, most = 0;    // densities
  bool operator==(const Grid&) const = default;

  int64_t width() const;
  int64_t blocks(size_t row) const;
  int64_t rows() const { return std::ssize(lengths); }
  int64_t pairs() const;  // of blocks, in all rows

  // Kept from call to call: to copy them to a GPU waits for it, so a step of training does without from the second one
  // on. Thread-safe.
  GridTables tables(at::Device) const;

  // As for RandomBlocks: held against the longest row, but not if causal; half a block is rounding, and one block is
  // dense. Throws Error.
  void check(double density) const;
};

}  // namespace longstride::nn
