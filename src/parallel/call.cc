// Checks a sharded call and sorts its heads into classes.
#include "parallel/call.h"

#include <fmt/format.h>

#include <utility>

#include "core/refuse.h"

namespace longstride::parallel {

ShardedCall::ShardedCall(Pattern given_pattern, Extent given_extent, Shards given_shards)
    : pattern(std::move(given_pattern)), extent(std::move(given_extent)), shards(std::move(given_shards)) {
  if (pattern.empty()) {
    core::refuse("pattern", "must have groups or blocks", "neither",
                 "Pattern::dilated and Pattern::block_sparse make one");
  }
  extent.validate();
  if (extent.len_q != extent.len_k) {
    core::refuse("len_q", fmt::format("must be len_k ({}) where the sequence lies in shards", extent.len_k),
                 fmt::format("{}", extent.len_q), "decode on one rank");
  }
  if (shards.len() != extent.len_k) {
    core::refuse("shards", fmt::format("must hold len_k ({}) tokens in all", extent.len_k),
                 fmt::format("{} on {} ranks", shards.len(), shards.ranks()));
  }
  classes = plan::classify(pattern, extent);
  for (const plan::ClassSpec& spec : classes.specs) {
    std::vector<int32_t>& run_groups = groups_of.emplace_back();
    for (int32_t g = 0; g < groups(); ++g) {
      if (pattern.runs(g, spec.kv_head, extent.kv_heads)) run_groups.push_back(g);
    }
  }
  places_of.assign(classes.specs.size(), 0);
  for (const int32_t c : classes.class_of) ++places_of[c];
}

}  // namespace longstride::parallel
