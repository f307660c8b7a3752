// The gates of a call's explicit blocks: from rows of `blocks` to the entries that an engine fills. Torch-free.
#pragma once

#include <vector>

#include "engine/contract.h"
#include "longstride/pattern.h"

namespace longstride::op {

class GateIndex {
 public:
  GateIndex(const std::vector<Block>& blocks, int64_t block_size, const Extent& extent);

  // Borrowed from this index; `grad` is for the caller to set to entries() elements.
  engine::GateBlocks view() const;
  int64_t entries() const { return static_cast<int64_t>(query_block_.size()); }

  // Of the first row, of the second, ...: its entries, and how many each has.
  const std::vector<int64_t>& entry_of_rows() const { return entry_; }
  const std::vector<int64_t>& entries_of_row() const { return entries_of_row_; }

 private:
  int64_t block_size_;
  int64_t key_blocks_;
  std::vector<int64_t> begin_;
  std::vector<int32_t> query_block_;
  std::vector<int64_t> entry_;
  std::vector<int64_t> entries_of_row_;
};

}  // namespace longstride::op
