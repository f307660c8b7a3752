// Sizes and hashes of keys, and the two stores of the process.
#include "op/parallel/rank_cache.h"

namespace longstride::op {

int64_t RankKey::bytes() const {
  // A zigzag has twice as many chunks as ranks. The value holds pattern and lengths once more.
  return 2 * call.bytes() + static_cast<int64_t>(sizeof(RankKey) + (shards.chunks() + 1) * sizeof(int64_t));
}

size_t RankKeyHash::operator()(const RankKey& key) const {
  size_t hash = plan::PlanKeyHash{}(key.call);
  const auto add = [&](int64_t value) {
    hash ^= static_cast<size_t>(value) + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
  };
  add(static_cast<int64_t>(key.shards.layout()));
  add(key.shards.ranks());
  add(key.rank);
  add(key.step);
  add(key.share.of);
  add(key.share.at);
  for (int64_t n = 0; n < key.shards.chunks(); ++n) add(key.shards.chunk(n).end);
  return hash;
}

std::shared_ptr<const CachedRank> rank_of(const RankKey& key) {
  static KeptByRank<CachedRank> kept(kRankCacheBytes);
  return kept.get(key, [&] {
    parallel::ShardedCall call(key.call.pattern, key.call.extent, key.shards, key.share);
    return parallel::Rank(std::move(call), key.rank, key.step);
  });
}

std::shared_ptr<const parallel::RankPlans> plans_of(const RankKey& key, const parallel::Rank& rank) {
  static KeptByRank<parallel::RankPlans> kept(kRankCacheBytes);
  return kept.get(key, [&] { return parallel::compile(rank, key.call.geometry, key.call.direction); });
}

}  // namespace longstride::op
