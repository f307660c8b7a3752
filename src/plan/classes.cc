// Lists the distinct classes of a call: equal documents, equal offsets and equal block patterns are one class.
#include "plan/classes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "core/checked.h"
#include "core/refuse.h"

namespace longstride::plan {
namespace {

int64_t longest_document(const Documents& documents) {
  int64_t longest = 0;
  for (size_t d = 1; d < documents.size(); ++d) longest = std::max(longest, documents[d] - documents[d - 1]);
  return longest;
}

// Empty documents are left out: no position lies in them.
Documents compact(const std::vector<int64_t>& bounds) {
  Documents documents = bounds;
  documents.erase(std::unique(documents.begin(), documents.end()), documents.end());
  return documents;
}

using SharedCells = std::shared_ptr<const pattern::Cells>;

void check_list(const BlockList& list, int64_t block_size, const Extent& e) {
  if (!e.cu_seqlens.empty()) {
    core::refuse("cu_seqlens", "cannot be given with an explicit list of blocks, which counts from position 0",
                 fmt::format("{} documents", e.cu_seqlens.size() - 1),
                 "give one document a batch row (lengths), or a rule, which is laid out on every document");
  }
  const int64_t nb = core::ceil_divide(e.len_k, block_size);
  for (size_t i = 0; i < list.blocks.size(); ++i) {
    const auto require_below = [&](const char* what, int64_t got, int64_t limit) {
      if (got >= limit) {
        core::refuse(fmt::format("blocks[{}].{}", i, what), fmt::format("must be below {}", limit), got);
      }
    };
    const Block& b = list.blocks[i];
    require_below("batch_row", b.batch_row, e.batch);
    require_below("kv_head", b.kv_head, e.kv_heads);
    require_below("query_block", b.query_block, nb);
    require_below("key_block", b.key_block, nb);
  }
}

// What tells the block patterns of one (batch row, KV head) from those of another.
class BlockVariants {
 public:
  BlockVariants(const Pattern& pattern, const Extent& extent) : pattern_(pattern), extent_(extent) {
    const size_t places = extent.batch * extent.kv_heads;
    for (const BlockPattern& block : pattern.blocks()) {
      std::vector<SharedCells> by_place;
      if (const BlockList* list = block.list()) {
        check_list(*list, block.block_size(), extent);
        by_place = split(*list, places);
      }
      cells_.push_back(std::move(by_place));
    }
  }

  void append_to(std::vector<int64_t>& key, int64_t b, int64_t j) const {
    for (size_t p = 0; p < cells_.size(); ++p) {
      if (cells_[p].empty()) {
        const auto variant = [&](const auto& rule) { return rule.variant(b, j); };
        key.push_back(std::visit(variant, pattern_.blocks()[p].rule()));
      } else {
        key.push_back(reinterpret_cast<intptr_t>(cells_[p][b * extent_.kv_heads + j].get()));
      }
    }
  }

  std::vector<SharedCells> cells(int64_t b, int64_t j) const {
    std::vector<SharedCells> cells;
    for (const auto& by_place : cells_) {
      cells.push_back(by_place.empty() ? nullptr : by_place[b * extent_.kv_heads + j]);
    }
    return cells;
  }

 private:
  // The cells of every (batch row, KV head), equal ones shared.
  std::vector<SharedCells> split(const BlockList& list, size_t places) const {
    std::vector<pattern::Cells> cells(places);
    for (const Block& block : list.blocks) {
      const int64_t b_begin = std::max(block.batch_row, 0), b_end = block.batch_row < 0 ? extent_.batch : b_begin + 1;
      const int64_t j_begin = std::max(block.kv_head, 0), j_end = block.kv_head < 0 ? extent_.kv_heads : j_begin + 1;
      for (int64_t b = b_begin; b < b_end; ++b) {
        for (int64_t j = j_begin; j < j_end; ++j) {
          cells[b * extent_.kv_heads + j].emplace_back(block.query_block, block.key_block);
        }
      }
    }
    std::map<pattern::Cells, SharedCells> known;
    std::vector<SharedCells> shared;
    for (pattern::Cells& one : cells) {
      std::sort(one.begin(), one.end());
      one.erase(std::unique(one.begin(), one.end()), one.end());
      SharedCells& slot = known[one];
      if (!slot) slot = std::make_shared<const pattern::Cells>(std::move(one));
      shared.push_back(slot);
    }
    return shared;
  }

  const Pattern& pattern_;
  const Extent& extent_;
  std::vector<std::vector<SharedCells>> cells_;  // [block pattern][batch row x KV head]; empty where it is no list
};

// The one query of a decoding step sees nothing through groups that do not sample it, and is seen by nothing. Without
// them most heads are alike: with LongNet's five rates and an offset of its own, 16 heads make at most 5 classes.
// A whole sequence of one token is left alone: ranks find a class's groups by their place, and decode nothing.
class Sampled {
 public:
  Sampled(const Extent& extent, const Documents& documents)
      : one_(extent.len_q == 1 && extent.len_k > 1),
        seen_(extent.query_start < documents.back()),
        position_(extent.query_start) {
    if (one_ && seen_) position_ -= *(std::upper_bound(documents.begin(), documents.end(), position_) - 1);
  }
  // Whether some query of the call may be sampled by the group.
  bool operator()(const Group& group, int64_t offset) const {
    return !one_ || (seen_ && position_ % group.segment % group.rate == offset);
  }

 private:
  const bool one_, seen_;
  int64_t position_;  // of the one query in its document
};

}  // namespace

Classes classify(const Pattern& pattern, const Extent& extent) {
  const int64_t groups = std::ssize(pattern.groups());
  // What every KV head samples, group by group: -1 where it does not run the group. Equal for all batch rows.
  std::vector<int64_t> offsets(extent.kv_heads * groups, -1);
  for (int64_t j = 0; j < extent.kv_heads; ++j) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t offset = pattern.offset(g, j, extent.kv_heads);
      if (pattern.runs(g, j, extent.kv_heads)) offsets[j * groups + g] = offset;
    }
  }

  Classes classes;
  classes.class_of.reserve(extent.batch * extent.kv_heads);
  std::map<int64_t, std::shared_ptr<const Documents>> by_length;
  // What tells a class from others: its documents, what it samples, its variants of block patterns.
  std::pair<const Documents*, std::vector<int64_t>> key;
  std::map<decltype(key), int32_t> known;
  const BlockVariants variants(pattern, extent);
  int64_t longest_of_call = extent.len_k;
  if (!extent.lengths.empty()) longest_of_call = *std::max_element(extent.lengths.begin(), extent.lengths.end());
  if (!extent.cu_seqlens.empty()) longest_of_call = longest_document(extent.cu_seqlens);
  for (int64_t b = 0; b < extent.batch; ++b) {
    const int64_t length = extent.lengths.empty() ? extent.len_k : extent.lengths[b];
    std::shared_ptr<const Documents>& documents = by_length[length];
    if (!documents) {
      documents = std::make_shared<const Documents>(extent.cu_seqlens.empty() ? compact({0, length})
                                                                              : compact(extent.cu_seqlens));
    }
    const int64_t longest = std::max<int64_t>(1, longest_document(*documents));
    const Sampled sampled(extent, *documents);
    for (int64_t j = 0; j < extent.kv_heads; ++j) {
      key.first = documents.get();
      key.second.assign(offsets.begin() + j * groups, offsets.begin() + (j + 1) * groups);
      std::vector<int64_t>& kept = key.second;
      for (int64_t g = 0; g < groups; ++g)
        if (!sampled(pattern.groups()[g], kept[g])) kept[g] = -1;
      variants.append_to(kept, b, j);
      const auto [found, inserted] = known.try_emplace(key, static_cast<int32_t>(classes.specs.size()));
      if (inserted) {
        ClassSpec spec{.documents = documents,
                       .batch_row = b,
                       .kv_head = j,
                       .longest_document = longest_of_call,
                       .cells = variants.cells(b, j)};
        for (int64_t g = 0; g < groups; ++g) {
          if (kept[g] < 0) continue;
          const Group& group = pattern.groups()[g];
          spec.samplings.push_back({std::min(group.segment, longest), group.rate, kept[g]});
        }
        classes.specs.push_back(std::move(spec));
      }
      classes.class_of.push_back(found->second);
    }
  }
  return classes;
}

}  // namespace longstride::plan
