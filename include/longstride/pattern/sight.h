// Who sees whom, and how often: docs/semantics.md, sections 1, 3 and 9, as a function of positions and without a plan.
// Positions are those of the len_k, counted from 0: query i of the tensor stands at query_start + i. Torch-free.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "longstride/pattern.h"

namespace longstride {

// Positions first, first + step, ...: `count` of them.
struct Progression {
  int64_t first = 0;
  int64_t step = 1;
  int64_t count = 0;
  int64_t last() const { return first + (count - 1) * step; }
  bool contains(int64_t position) const {
    return count > 0 && position >= first && position <= last() && (position - first) % step == 0;
  }
  // The members in [low, high].
  Progression within(int64_t low, int64_t high) const {
    const int64_t skipped = first >= low ? 0 : (low - first - 1) / step + 1;
    if (skipped >= count || first + skipped * step > high) return {};
    const int64_t begin = first + skipped * step;
    return {begin, step, std::min(count - skipped, (high - begin) / step + 1)};
  }
  bool operator==(const Progression&) const = default;
};

// Of one batch row and KV head. It holds what it needs of its arguments. Making one takes the documents and the active
// blocks of the batch row; asking it takes a few operations a group.
class Sight {
 public:
  // Throws Error: what Extent::validate() and the pattern refuse, and a batch row or KV head that there is not.
  Sight(const Pattern&, const Extent&, int64_t batch_row, int64_t kv_head);

  int64_t multiplicity(int64_t query, int64_t key) const;
  int64_t phantoms(int64_t query) const;

  // Appends the keys that a query sees, and the queries of the call that see a key: a position stands in as many of the
  // progressions as the pair counts.
  void keys(int64_t query, std::vector<Progression>&) const;
  void queries(int64_t key, std::vector<Progression>&) const;
  // Of keys(), what the union of the block patterns adds: disjoint ranges, ascending.
  void block_keys(int64_t query, std::vector<Progression>&) const;

  // A segment [begin, end) of a group, cut off where its document ends, and what the group samples of it.
  struct Segment {
    int64_t begin = 0;
    int64_t end = 0;
    Progression sampled;
  };
  // The segment in which a position lies. Nothing is sampled, up to where that ends, outside every document, and by a
  // group that the KV head does not run.
  Segment segment(int64_t group, int64_t position) const;

 private:
  struct Document;
  const Document* document_at(int64_t position) const;  // null: in none

  bool causal_ = false;
  bool zero_keys_ = false;
  int64_t len_k_ = 0;
  int64_t query_begin_ = 0;
  int64_t query_end_ = 0;
  std::vector<Group> groups_;
  std::vector<int64_t> offsets_;  // of the groups; -1: the KV head does not run it
  std::shared_ptr<const std::vector<Document>> documents_;
};

}  // namespace longstride
