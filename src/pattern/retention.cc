// How far back a pattern's queries look, over all its parts. What single rules look back on is in blocks.h. Called by
// the modules' caches.
#include "longstride/pattern/retention.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace longstride {
namespace {

constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

// kMost if it is larger.
int64_t common_multiple(int64_t a, int64_t b) {
  int64_t multiple = 0;
  return __builtin_mul_overflow(a / std::gcd(a, b), b, &multiple) ? kMost : multiple;
}

int64_t saturating_add(int64_t a, int64_t b) { return a > kMost - b ? kMost : a + b; }

}  // namespace

std::optional<Retention> Retention::of(const Pattern& pattern) {
  // Phantom keys are counted by the length of the document.
  if (pattern.empty() || (pattern.options().padding == Padding::kZeroKeys && !pattern.causal())) return {};
  Retention all;
  for (const Group& group : pattern.groups()) all.parts_.push_back({.grain = group.segment});
  for (const BlockPattern& block : pattern.blocks()) {
    const std::optional<Lookback> part =
        std::visit([&](const auto& rule) { return rule.lookback(block.block_size()); }, block.rule());
    if (!part) return {};
    all.parts_.push_back(*part);
  }
  for (const Lookback& part : all.parts_) {
    all.sinks_ = std::max(all.sinks_, part.sinks);
    all.step_ = common_multiple(all.step_, part.grain);
  }
  return all;
}

int64_t Retention::outlived(int64_t query) const {
  int64_t oldest = query;
  for (const Lookback& part : parts_) oldest = std::min(oldest, query / part.grain * part.grain - part.back);
  return std::max<int64_t>(0, oldest - sinks_) / step_ * step_;
}

int64_t Retention::most_kept() const {
  int64_t farthest = 0;  // query - oldest, at most
  for (const Lookback& part : parts_) farthest = std::max(farthest, part.back + part.grain - 1);
  return saturating_add(saturating_add(farthest, sinks_), step_);
}

}  // namespace longstride
