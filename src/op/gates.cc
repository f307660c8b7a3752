// Sorts the named blocks into the order of engine::Gates. A row that names every batch row or KV head (-1) has an entry
// for each; one of a KV head that the extent has not, none.
#include "op/gates.h"

#include <algorithm>
#include <tuple>

namespace longstride::op {
namespace {

// The pairs of a block: of this call's queries, below the batch row's length, and if causal below the diagonal.
engine::GateRange range_of(const Block& block, int64_t size, bool causal, int64_t batch_row, const Extent& e) {
  const int64_t len = e.lengths.empty() ? e.len_k : e.lengths[batch_row];
  engine::GateRange r{.query_begin = std::max(block.query_block * size, e.query_start),
                      .query_end = std::min({block.query_block * size + size, e.query_start + e.len_q, len}),
                      .key_begin = block.key_block * size,
                      .key_end = std::min(block.key_block * size + size, len)};
  if (causal) {
    r.query_begin = std::max(r.query_begin, r.key_begin);
    r.key_end = std::min(r.key_end, r.query_end);
  }
  r.query_begin = std::min(r.query_begin, r.query_end);
  r.key_end = std::max(r.key_begin, r.key_end);
  return r;
}

}  // namespace

GateIndex::GateIndex(const std::vector<Block>& blocks, int64_t block_size, bool causal, const Extent& e,
                     int64_t first_kv_head)
    : causal_(causal), begin_(e.batch * e.kv_heads + 1, 0), entries_of_row_(blocks.size(), 0) {
  struct Named {
    int64_t place;  // (batch row, KV head)
    int32_t key_block;
    int32_t query_block;
    int64_t row;
    auto operator<=>(const Named&) const = default;
  };
  std::vector<Named> named;
  named.reserve(blocks.size());
  for (size_t r = 0; r < blocks.size(); ++r) {
    const Block& block = blocks[r];
    const int64_t b0 = std::max(block.batch_row, 0), b1 = block.batch_row < 0 ? e.batch : b0 + 1;
    const int64_t own = block.kv_head - first_kv_head;
    const int64_t j0 = block.kv_head < 0 ? 0 : std::clamp<int64_t>(own, 0, e.kv_heads);
    const int64_t j1 = block.kv_head < 0 ? e.kv_heads : std::clamp<int64_t>(own + 1, 0, e.kv_heads);
    for (int64_t b = b0; b < b1; ++b) {
      for (int64_t j = j0; j < j1; ++j) {
        named.push_back({b * e.kv_heads + j, block.key_block, block.query_block, static_cast<int64_t>(r)});
      }
    }
  }
  std::sort(named.begin(), named.end());
  std::vector<std::pair<int64_t, int64_t>> taken;  // row, entry
  taken.reserve(named.size());
  for (size_t n = 0; n < named.size(); ++n) {
    const auto& [place, key_block, query_block, row] = named[n];
    if (n == 0 || std::tie(place, key_block, query_block) !=
                      std::tie(named[n - 1].place, named[n - 1].key_block, named[n - 1].query_block)) {
      ranges_.push_back(range_of(blocks[row], block_size, causal, place / e.kv_heads, e));
      ++begin_[place + 1];
    }
    taken.emplace_back(row, entries() - 1);
  }
  for (size_t n = 1; n < begin_.size(); ++n) begin_[n] += begin_[n - 1];
  std::sort(taken.begin(), taken.end());
  for (const auto& [row, entry] : taken) {
    entry_.push_back(entry);
    ++entries_of_row_[row];
  }
}

}  // namespace longstride::op
