// A pattern met with the lengths of a call: for every (batch row, KV head) a class, and what a class samples. The first
// step of compile(), and of the planner of ranks.
#pragma once

#include <compare>
#include <cstdint>
#include <memory>
#include <vector>

#include "longstride/pattern.h"
#include "pattern/block_rows.h"

namespace longstride::plan {

// One group as one class samples it. Counted from the start of a document, segment s is [s * segment, (s + 1) *
// segment), and of it every rate-th position from `offset` on is sampled.
struct Sampling {
  int64_t segment = 1;  // at most the longest document, at least 1
  int64_t rate = 1;
  int64_t offset = 0;  // < rate; may be >= segment (then nothing is sampled)
  auto operator<=>(const Sampling&) const = default;
};

// Document d is [bounds[d], bounds[d + 1]). Positions at or beyond the last bound lie in no document.
using Documents = std::vector<int64_t>;

struct Bands;
struct Rectangles;

struct ClassSpec {
  std::vector<Sampling> samplings;
  std::shared_ptr<const Documents> documents;
  // What the block patterns of the class are asked with: any of its (batch row, KV head); one entry of cells a block
  // pattern, null where it is no list.
  int64_t batch_row = 0;
  int64_t kv_head = 0;
  int64_t longest_document = 0;  // of the call: a density is held against it, whatever query_start is
  std::vector<std::shared_ptr<const pattern::Cells>> cells;
  // Made by compile(): one of the two if there are block patterns.
  std::shared_ptr<const Bands> bands;
  std::shared_ptr<const Rectangles> rectangles;
};

struct Classes {
  std::vector<ClassSpec> specs;
  std::vector<int32_t> class_of;  // batch x kv_heads
};

// Both arguments must be valid. Throws Error if the pattern cannot be had on these lengths.
Classes classify(const Pattern&, const Extent&);

}  // namespace longstride::plan
