// Checks a sharded call and sorts its heads into classes.
#include "parallel/call.h"

#include <fmt/format.h>

#include <map>
#include <utility>

#include "core/refuse.h"

namespace longstride::parallel {

namespace {

// The classes of a share's places.
plan::Classes classes_of(const HeadShare& share, const Extent& e, plan::Classes all) {
  if (share.of == 1) return all;
  plan::Classes kept;
  std::map<int32_t, int32_t> number_of;
  const int64_t heads = e.kv_heads / share.of;
  for (int64_t b = 0; b < e.batch; ++b) {
    for (int64_t j = share.at * heads; j < (share.at + 1) * heads; ++j) {
      const int32_t c = all.class_of[b * e.kv_heads + j];
      const auto [number, added] = number_of.try_emplace(c, static_cast<int32_t>(kept.specs.size()));
      if (added) kept.specs.push_back(all.specs[c]);
      kept.class_of.push_back(number->second);
    }
  }
  return kept;
}

}  // namespace

ShardedCall::ShardedCall(Pattern given_pattern, Extent given_extent, Shards given_shards, HeadShare share)
    : pattern(std::move(given_pattern)), extent(std::move(given_extent)), shards(std::move(given_shards)) {
  if (pattern.empty()) {
    core::refuse("pattern", "must have groups or blocks", "neither",
                 "Pattern::dilated and Pattern::block_sparse make one");
  }
  extent.validate();
  if (extent.len_q != extent.len_k) {
    core::refuse("len_q", fmt::format("must be len_k ({}) where the sequence lies in shards", extent.len_k),
                 extent.len_q, "decode on one rank");
  }
  if (shards.len() != extent.len_k) {
    core::refuse("shards", fmt::format("must hold len_k ({}) tokens in all", extent.len_k),
                 fmt::format("{} on {} ranks", shards.len(), shards.ranks()));
  }
  if (share.of < 1 || share.at < 0 || share.at >= share.of || extent.kv_heads % share.of != 0) {
    core::refuse("heads", fmt::format("must be divided among ranks that divide kv_heads ({})", extent.kv_heads),
                 fmt::format("share {} of {}", share.at, share.of));
  }
  classes = classes_of(share, extent, plan::classify(pattern, extent));
  for (const plan::ClassSpec& spec : classes.specs) {
    std::vector<int32_t>& run_groups = groups_of.emplace_back();
    for (int32_t g = 0; g < groups(); ++g) {
      if (pattern.runs(g, spec.kv_head, extent.kv_heads)) run_groups.push_back(g);
    }
  }
  extent.heads /= share.of;
  extent.kv_heads /= share.of;
  places_of.assign(classes.specs.size(), 0);
  for (const int32_t c : classes.class_of) ++places_of[c];
}

}  // namespace longstride::parallel
