// What the ranks of this process plan for: lists of rows and compiled plans by key, in a bounded store that many
// threads share. Called once for every kernel (rank_call.h); each finds the same by the same key, and nobody keeps a
// handle beyond a call. Torch-free.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "parallel/attention.h"
#include "plan/cache.h"

namespace longstride::op {

// All that a rank's lists depend on and, with geometry and direction, its plans.
struct RankKey {
  plan::PlanKey call;  // lengths of the whole sequence
  parallel::Shards shards = parallel::Shards::even(0, 1);
  parallel::HeadShare share;  // the call has all heads
  int64_t rank = 0;
  int64_t step = parallel::Rank::kAllSteps;
  bool operator==(const RankKey&) const = default;
  int64_t bytes() const;
};

struct RankKeyHash {
  size_t operator()(const RankKey&) const;
};

// A device keeps its own form of the lists with a rank.
using CachedRank = plan::Cached<parallel::Rank>;

// Values by key, the least recently used dropped first. Threads that ask for one key at one time may each make it.
template <class Value>
class KeptByRank {
 public:
  using Pointer = std::shared_ptr<const Value>;

  explicit KeptByRank(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  // What is kept, or what is made of what `make` gives, outside the lock. What it throws is thrown, and nothing is kept
  // then. A value larger than the capacity is returned and not kept.
  template <class Make>
  Pointer get(const RankKey& key, const Make& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = entries_.find(key); found != entries_.end()) {
        uses_.splice(uses_.begin(), uses_, found->second.use);
        return found->second.value;
      }
    }
    auto value = std::make_shared<const Value>(make());
    const int64_t bytes = value->bytes() + key.bytes();
    const std::lock_guard lock(mutex_);
    const auto [entry, added] = entries_.try_emplace(key);
    if (!added) return entry->second.value;
    uses_.push_front(&entry->first);
    entry->second = {value, uses_.begin(), bytes};
    bytes_ += bytes;
    while (bytes_ > capacity_bytes_) drop_last();
    return value;
  }

  size_t size() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }
  int64_t bytes() const {
    const std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    Pointer value;
    std::list<const RankKey*>::iterator use;  // in uses_
    int64_t bytes = 0;
  };

  void drop_last() {
    const auto entry = entries_.find(*uses_.back());
    bytes_ -= entry->second.bytes;
    uses_.pop_back();
    entries_.erase(entry);
  }

  mutable std::mutex mutex_;
  std::unordered_map<RankKey, Entry, RankKeyHash> entries_;
  std::list<const RankKey*> uses_;  // most recent first; points at keys in entries_
  const int64_t capacity_bytes_;
  int64_t bytes_ = 0;
};

// Of each of the two. LongNet's growing configuration at 2^30 tokens and 32 heads: the lists of the last of 1,024 ranks
// take 2.4 MB.
inline constexpr int64_t kRankCacheBytes = int64_t{128} << 20;

// Those of the process.
std::shared_ptr<const CachedRank> rank_of(const RankKey&);
std::shared_ptr<const parallel::RankPlans> plans_of(const RankKey&, const parallel::Rank&);

}  // namespace longstride::op
