// Checks patterns when they are made, and answers which residue a KV head samples in which group. Called by the
// planner, the operator and whoever builds a pattern.
#include "longstride/pattern.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/checked.h"
#include "core/refuse.h"

namespace longstride {
namespace {

void require_positive(const char* argument, const std::vector<int64_t>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] <= 0) core::refuse(fmt::format("{}[{}]", argument, i), "must be positive", values[i]);
  }
}

void check_index(const char* argument, int64_t index, int64_t size) {
  if (index < 0 || index >= size) core::refuse(argument, fmt::format("must be in [0, {})", size), index);
}

}  // namespace

Pattern Pattern::dilated(const std::vector<int64_t>& segment_lengths, const std::vector<int64_t>& dilation_rates,
                         const DilatedOptions& options) {
  if (segment_lengths.empty()) core::refuse("segment_lengths", "cannot be empty", "[]", "give one length a group");
  if (dilation_rates.empty()) core::refuse("dilation_rates", "cannot be empty", "[]", "give one rate a group");
  if (segment_lengths.size() != dilation_rates.size()) {
    throw Error(
        fmt::format("segment_lengths and dilation_rates must have the same length: {} != {}; give one of each a group",
                    segment_lengths.size(), dilation_rates.size()));
  }
  require_positive("segment_lengths", segment_lengths);
  require_positive("dilation_rates", dilation_rates);
  if (options.offsets) {
    const std::vector<int64_t>& offsets = *options.offsets;
    if (offsets.empty() || offsets.size() % segment_lengths.size() != 0) {
      core::refuse("offsets", "must have groups x kv_heads entries, row by row",
                   fmt::format("{} for {} groups", offsets.size(), segment_lengths.size()));
    }
    for (size_t i = 0; i < offsets.size(); ++i) {
      if (offsets[i] < 0) core::refuse(fmt::format("offsets[{}]", i), "must not be negative", offsets[i]);
    }
  }
  if (options.average && options.mixing != Mixing::kHeadPartition) {
    core::refuse("average", "divides out by the number of groups and needs mixing 'head_partition'",
                 fmt::format("mixing '{}'", name(options.mixing)), "leave average off or change the mixing");
  }
  Pattern pattern;
  pattern.options_ = options;
  pattern.groups_.reserve(segment_lengths.size());
  for (size_t g = 0; g < segment_lengths.size(); ++g) {
    pattern.groups_.push_back({.segment = segment_lengths[g], .rate = dilation_rates[g]});
  }
  return pattern;
}

Pattern Pattern::block_sparse(const std::vector<BlockPattern>& blocks, bool causal) {
  if (blocks.empty()) core::refuse("blocks", "cannot be empty", "[]", "give at least one block pattern");
  Pattern pattern;
  pattern.options_.causal = causal;
  pattern.blocks_ = blocks;
  return pattern;
}

Pattern Pattern::with_blocks(const std::vector<BlockPattern>& blocks) const {
  Pattern pattern = *this;
  pattern.blocks_.insert(pattern.blocks_.end(), blocks.begin(), blocks.end());
  return pattern;
}

Pattern Pattern::with_causal(bool causal) const {
  Pattern pattern = *this;
  pattern.options_.causal = causal;
  return pattern;
}

double Pattern::out_scale() const { return options_.average ? 1.0 / groups_.size() : 1.0; }

int64_t Pattern::offset(int64_t g, int64_t kv_head, int64_t kv_heads) const {
  check_index("group", g, std::ssize(groups_));
  check_index("kv_head", kv_head, kv_heads);
  const int64_t rate = groups_[g].rate;
  if (options_.offsets) {
    const int64_t groups = std::ssize(groups_);
    if (std::ssize(*options_.offsets) != groups * kv_heads) {
      core::refuse("offsets", fmt::format("must have groups x kv_heads = {} x {} entries", groups, kv_heads),
                   options_.offsets->size());
    }
    return (*options_.offsets)[g * kv_heads + kv_head] % rate;
  }
  switch (options_.head_offset) {
    case HeadOffset::kModulo:
      return kv_head % rate;
    case HeadOffset::kBlock:
      return kv_head / core::ceil_divide(kv_heads, rate);
    case HeadOffset::kGroup:
      return g % rate;
  }
  return 0;
}

bool Pattern::runs(int64_t g, int64_t kv_head, int64_t kv_heads) const {
  check_index("group", g, std::ssize(groups_));
  check_index("kv_head", kv_head, kv_heads);
  if (options_.mixing == Mixing::kJoint) return true;
  const int64_t groups = std::ssize(groups_);
  if (kv_heads < groups) {
    core::refuse("mixing", "'head_partition' needs at least one KV head a group",
                 fmt::format("{} KV heads for {} groups", kv_heads, groups), "use mixing 'joint' or fewer groups");
  }
  // The first kv_heads mod groups ranges are one longer.
  const int64_t share = kv_heads / groups;
  const int64_t longer = kv_heads % groups;
  const int64_t begin = g * share + std::min(g, longer);
  return begin <= kv_head && kv_head < begin + share + (g < longer ? 1 : 0);
}

}  // namespace longstride
