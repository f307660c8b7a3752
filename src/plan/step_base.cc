// A group shows the row what lies at multiples of its rate before it, from its segment's begin on. As long as the
// segments stay the same ones and the row keeps its place modulo every rate, a later row sees the same columns, and
// behind them what came since: one more in every residue of a level for each of its strides.
#include "plan/step_base.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/checked.h"
#include "core/refuse.h"
#include "plan/level.h"
#include "plan/one_row.h"

namespace longstride::plan {
namespace {

// The stride that all groups share, a multiple of every rate, or 0 where not all runs come from runs_of_one_row().
int64_t shared_stride(const Pattern& pattern) {
  const std::vector<Group>& groups = pattern.groups();
  if (groups.empty() || groups.size() > kMostReaches || !pattern.blocks().empty()) return 0;
  std::array<int64_t, kMostReaches> rates;
  const auto end = std::transform(groups.begin(), groups.end(), rates.begin(), [](const Group& g) { return g.rate; });
  std::sort(rates.begin(), end);
  for (auto rate = rates.begin() + 1; rate < end; ++rate)
    if (rate[0] % rate[-1] != 0) return 0;
  return end[-1] <= kMostFusedStride ? end[-1] : 0;
}

}  // namespace

Extent step_base(const Pattern& pattern, const Extent& extent) {
  const bool one_query = extent.len_q == 1 && extent.cu_seqlens.empty() && extent.lengths.empty();
  if (!one_query || !pattern.causal() || pattern.options().padding != Padding::kMasked) return extent;
  const int64_t stride = shared_stride(pattern), row = extent.query_start;
  if (stride == 0) return extent;
  int64_t begin = 0;  // of the segment that began last
  for (const Group& group : pattern.groups()) begin = std::max(begin, row - row % group.segment);
  // From there on every segment has a second sample, and every run that grows a first column in each residue.
  const int64_t least = begin + 2 * stride - 1;
  if (row < least) return extent;
  const int64_t first = std::max(least, row - (row - begin) % kStepWindow);
  Extent base = extent;
  base.query_start = first + core::floor_modulo(row - first, stride);
  base.len_k = base.query_start + 1;
  return base;
}

Plan advanced(Plan plan, int64_t tokens) {
  for (const Level& level : plan.levels) {
    if (tokens < 0 || tokens % level.stride != 0)
      core::refuse("tokens", fmt::format("must be a multiple of a level's stride, {}", level.stride), tokens);
    for (int32_t s = level.section_begin; s < level.section_begin + level.section_count; ++s) {
      const Section& section = plan.sections[s];
      for (int64_t t = section.tile_begin; t < section.tile_begin + section.tile_count; ++t) {
        Tile& tile = plan.tiles[t];
        tile.row0 += tokens;
        for (uint32_t r = tile.run_begin; r < tile.run_begin + tile.run_count; ++r)
          if (plan.runs[r].grows()) plan.runs[r].columns += tokens / level.stride;
      }
    }
  }
  return plan;
}

}  // namespace longstride::plan
