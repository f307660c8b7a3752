// The gates of a call's explicit blocks: from rows of `blocks` to the ranges whose gradients an engine fills.
// Torch-free.
#pragma once

#include <vector>

#include "engine/contract.h"
#include "longstride/pattern.h"

namespace longstride::op {

class GateIndex {
 public:
  // KV heads of the extent are those from `first_kv_head` on of the heads that blocks name; rows of others have no
  // entry.
  GateIndex(const std::vector<Block>& blocks, int64_t block_size, bool causal, const Extent& extent,
            int64_t first_kv_head = 0);

  // Borrowed from this index; `grad` is for the caller to set to entries() elements.
  engine::Gates view() const { return {.begin = begin_.data(), .ranges = ranges_.data(), .causal = causal_}; }
  int64_t entries() const { return std::ssize(ranges_); }

  // Of the first row, of the second, ...: its entries (numbers of ranges), and how many each has.
  const std::vector<int64_t>& entry_of_rows() const { return entry_; }
  const std::vector<int64_t>& entries_of_row() const { return entries_of_row_; }

 private:
  bool causal_;
  std::vector<int64_t> begin_;
  std::vector<engine::GateRange> ranges_;
  std::vector<int64_t> entry_;
  std::vector<int64_t> entries_of_row_;
};

}  // namespace longstride::op
