// The gates of a call's explicit blocks: from rows of `blocks` to the entries that an engine fills, and back.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "engine/contract.h"
#include "longstride/pattern.h"

namespace longstride::op {

// The rows of a checked `blocks` tensor [rows, 4], on the host.
std::vector<Block> read_blocks(const at::Tensor& blocks);

class GateIndex {
 public:
  GateIndex(const std::vector<Block>& blocks, int64_t block_size, const Extent& extent);

  // Borrowed from this index; `grad` is for the caller to set to entries() elements.
  engine::GateBlocks view() const;
  int64_t entries() const { return static_cast<int64_t>(query_block_.size()); }

  // [rows]: the sum over the entries of each row, from the entries' gradients [entries].
  at::Tensor by_row(const at::Tensor& entry_grads) const;

 private:
  int64_t block_size_;
  int64_t key_blocks_;
  std::vector<int64_t> begin_;
  std::vector<int32_t> query_block_;
  std::vector<int64_t> entry_;           // those of the first row, of the second, ...
  std::vector<int64_t> entries_of_row_;  // how many each has
};

}  // namespace longstride::op
