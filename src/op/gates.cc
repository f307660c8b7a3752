// Sorts the named blocks into the order of engine::GateBlocks. A row that names every batch row or KV head (-1) has an
// entry for each.
#include "op/gates.h"

#include <algorithm>
#include <tuple>

#include "core/checked.h"

namespace longstride::op {

GateIndex::GateIndex(const std::vector<Block>& blocks, int64_t block_size, const Extent& e)
    : block_size_(block_size),
      key_blocks_(core::ceil_divide(e.len_k, block_size)),
      begin_(e.batch * e.kv_heads * key_blocks_ + 1, 0),
      entries_of_row_(blocks.size(), 0) {
  struct Named {
    int64_t column;  // (batch row, KV head, key block)
    int32_t query_block;
    int64_t row;
  };
  std::vector<Named> named;
  named.reserve(blocks.size());
  for (size_t r = 0; r < blocks.size(); ++r) {
    const Block& block = blocks[r];
    const int64_t b0 = std::max(block.batch_row, 0), b1 = block.batch_row < 0 ? e.batch : b0 + 1;
    const int64_t j0 = std::max(block.kv_head, 0), j1 = block.kv_head < 0 ? e.kv_heads : j0 + 1;
    for (int64_t b = b0; b < b1; ++b) {
      for (int64_t j = j0; j < j1; ++j) {
        named.push_back(
            {(b * e.kv_heads + j) * key_blocks_ + block.key_block, block.query_block, static_cast<int64_t>(r)});
      }
    }
  }
  std::sort(named.begin(), named.end(), [](const Named& a, const Named& b) {
    return std::tie(a.column, a.query_block, a.row) < std::tie(b.column, b.query_block, b.row);
  });
  std::vector<std::pair<int64_t, int64_t>> taken;  // row, entry
  taken.reserve(named.size());
  for (size_t n = 0; n < named.size(); ++n) {
    if (n == 0 || named[n].column != named[n - 1].column || named[n].query_block != named[n - 1].query_block) {
      query_block_.push_back(named[n].query_block);
      ++begin_[named[n].column + 1];
    }
    taken.emplace_back(named[n].row, entries() - 1);
  }
  for (size_t n = 1; n < begin_.size(); ++n) begin_[n] += begin_[n - 1];
  std::sort(taken.begin(), taken.end());
  for (const auto& [row, entry] : taken) {
    entry_.push_back(entry);
    ++entries_of_row_[row];
  }
}

engine::GateBlocks GateIndex::view() const {
  return {
      .block_size = block_size_, .key_blocks = key_blocks_, .begin = begin_.data(), .query_block = query_block_.data()};
}

}  // namespace longstride::op
