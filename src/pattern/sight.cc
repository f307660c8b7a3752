// The definition of docs/semantics.md, segment by segment and block row by block row.
#include "longstride/pattern/sight.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "core/checked.h"
#include "core/refuse.h"
#include "pattern/block_rows.h"

namespace longstride {
namespace {

using pattern::Interval;

void require_below(const char* argument, int64_t index, int64_t count) {
  if (index < 0 || index >= count) core::refuse(argument, fmt::format("must be in [0, {})", count), index);
}

}  // namespace

struct Sight::Document {
  // The active blocks of one block pattern.
  struct Grid {
    int64_t size = 1;
    pattern::BlockRows rows;
    std::span<const Interval> row(int64_t i) const {
      return std::span(rows.intervals).subspan(rows.row_begin[i], rows.row_begin[i + 1] - rows.row_begin[i]);
    }
    bool active(int64_t i, int64_t j) const {
      const auto found = std::ranges::partition_point(row(i), [&](const Interval& x) { return x.end <= j; });
      return found != row(i).end() && found->begin <= j;
    }
  };
  int64_t begin = 0;
  int64_t end = 0;
  std::vector<Grid> grids;

  // Appends the union of the ranges of tokens that visit(grid, add) names by blocks, cut to [low, high).
  template <class Visit>
  void append_union(int64_t low, int64_t high, std::vector<Progression>& out, const Visit& visit) const {
    std::vector<Interval> ranges;
    for (const Grid& grid : grids) {
      visit(grid, [&](const Interval& blocks) {
        ranges.push_back(
            {std::max(low, begin + blocks.begin * grid.size), std::min({high, end, begin + blocks.end * grid.size})});
      });
    }
    pattern::normalise(ranges);
    for (const Interval& range : ranges) out.push_back({range.begin, 1, range.end - range.begin});
  }
};

Sight::Sight(const Pattern& pattern, const Extent& e, int64_t batch_row, int64_t kv_head)
    : causal_(pattern.causal()),
      zero_keys_(pattern.options().padding == Padding::kZeroKeys && !pattern.causal()),
      len_k_(e.len_k),
      query_begin_(e.query_start),
      groups_(pattern.groups()) {
  e.validate();
  query_end_ = e.query_start + e.len_q;
  require_below("batch_row", batch_row, e.batch);
  require_below("kv_head", kv_head, e.kv_heads);
  for (int64_t g = 0; g < std::ssize(groups_); ++g)
    offsets_.push_back(pattern.runs(g, kv_head, e.kv_heads) ? pattern.offset(g, kv_head, e.kv_heads) : -1);
  std::vector<int64_t> cuts = e.cu_seqlens;
  if (cuts.empty()) cuts = {0, e.lengths.empty() ? e.len_k : e.lengths[batch_row]};
  // A density is held against the longest document of the call.
  int64_t longest = e.lengths.empty() ? 0 : *std::max_element(e.lengths.begin(), e.lengths.end());
  for (size_t d = 1; d < cuts.size(); ++d) longest = std::max(longest, cuts[d] - cuts[d - 1]);
  std::vector<Document> documents;
  for (size_t d = 1; d < cuts.size(); ++d) {
    Document document{cuts[d - 1], cuts[d], {}};
    for (const BlockPattern& block : pattern.blocks()) {
      const int64_t length = document.end - document.begin;
      const pattern::Place place{.blocks = core::ceil_divide(length, block.block_size()),
                                 .causal = causal_,
                                 .kv_head = kv_head,
                                 .batch_row = batch_row,
                                 .strict = length == longest};
      document.grids.push_back({block.block_size(), pattern::active_rows(block, place, 0, place.blocks)});
    }
    documents.push_back(std::move(document));
  }
  documents_ = std::make_shared<const std::vector<Document>>(std::move(documents));
}

const Sight::Document* Sight::document_at(int64_t position) const {
  const auto found = std::ranges::upper_bound(*documents_, position, {}, &Document::end);
  return found == documents_->end() ? nullptr : &*found;
}

Sight::Segment Sight::segment(int64_t group, int64_t position) const {
  const Document* const document = document_at(position);
  if (document == nullptr) return {position, len_k_, {}};
  const auto [w, r] = groups_[group];
  const int64_t offset = offsets_[group];
  if (offset < 0) return {position, document->end, {}};
  const int64_t begin = position - (position - document->begin) % w, length = std::min(w, document->end - begin);
  if (offset >= length) return {begin, begin + length, {}};
  return {begin, begin + length, {begin + offset, r, (length - 1 - offset) / r + 1}};
}

int64_t Sight::multiplicity(int64_t query, int64_t key) const {
  const Document* const document = document_at(query);
  if (document == nullptr || document_at(key) != document || (causal_ && key > query)) return 0;
  int64_t m = std::ranges::any_of(document->grids, [&](const auto& grid) {
    return grid.active((query - document->begin) / grid.size, (key - document->begin) / grid.size);
  });
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Progression sampled = segment(g, query).sampled;
    m += sampled.contains(query) && sampled.contains(key);
  }
  return m;
}

int64_t Sight::phantoms(int64_t query) const {
  const Document* const document = document_at(query);
  if (document == nullptr || !zero_keys_) return 0;
  int64_t z = 0;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Progression sampled = segment(g, query).sampled;
    const auto [w, r] = groups_[g];
    if (sampled.contains(query))
      z += core::ceil_divide(std::min(w, document->end - document->begin), r) - sampled.count;
  }
  return z;
}

void Sight::keys(int64_t query, std::vector<Progression>& out) const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Segment s = segment(g, query);
    if (s.sampled.contains(query)) out.push_back(s.sampled.within(s.begin, causal_ ? query : s.end));
  }
  block_keys(query, out);
}

void Sight::block_keys(int64_t query, std::vector<Progression>& out) const {
  const Document* const document = document_at(query);
  if (document == nullptr) return;
  document->append_union(0, causal_ ? query + 1 : document->end, out, [&](const auto& grid, const auto& add) {
    std::ranges::for_each(grid.row((query - document->begin) / grid.size), add);
  });
}

void Sight::queries(int64_t key, std::vector<Progression>& out) const {
  const Document* const document = document_at(key);
  if (document == nullptr) return;
  const int64_t begin = causal_ ? std::max(key, query_begin_) : query_begin_;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Progression sampled = segment(g, key).sampled;
    if (sampled.contains(key)) out.push_back(sampled.within(begin, query_end_ - 1));
  }
  document->append_union(begin, query_end_, out, [&](const auto& grid, const auto& add) {
    const int64_t rows = std::ssize(grid.rows.row_begin) - 1;
    for (int64_t i = 0; i < rows; ++i) {
      if (grid.active(i, (key - document->begin) / grid.size)) add({i, i + 1});
    }
  });
}

}  // namespace longstride
