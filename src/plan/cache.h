// Compiled plans by key: a bounded store that many threads share. Called by src/op, once for every forward and
// backward. The backward finds its plan by the same key; nobody keeps a handle beyond a call.
#pragma once

#include <cstdint>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride::plan {

// All that a plan depends on.
struct PlanKey {
  Pattern pattern;
  Extent extent;
  Geometry geometry;
  Direction direction = Direction::kForward;
  bool operator==(const PlanKey&) const = default;
  int64_t bytes() const;  // with its lists
};

struct PlanKeyHash {
  size_t operator()(const PlanKey&) const;
};

// A value, and what an engine keeps with it: its own form of the value (a copy on a device), which goes when that goes.
template <class Value>
class Cached : public Value {
 public:
  using Kept = std::shared_ptr<const void>;
  explicit Cached(Value value) : Value(std::move(value)) {}
  // What `make` gave when first asked for this key (the number of a device); threads that ask at one time share one
  // make(). If it throws, nothing is kept.
  Kept kept(int64_t key, const std::function<Kept()>& make) const {
    const std::lock_guard lock(mutex_);
    Kept& kept = kept_[key];
    if (!kept) kept = make();
    return kept;
  }

 private:
  mutable std::mutex mutex_;
  mutable std::map<int64_t, Kept> kept_;
};
using CachedPlan = Cached<Plan>;

struct CacheStatistics {
  int64_t hits = 0;       // found, or found being compiled by another thread
  int64_t misses = 0;     // compiled
  int64_t evictions = 0;  // dropped to stay within the capacity
  int64_t plans = 0;      // held now
  int64_t pinned = 0;     // of these, never dropped
  int64_t bytes = 0;      // of the plans held now and their keys
};

class PlanCache {
 public:
  using Compile = std::function<Plan(const Pattern&, const Extent&, const Geometry&, Direction)>;
  // 256 MiB: LongNet plans of 1M tokens and 16 classes take 64 MiB at most (4 bytes a token and class).
  static constexpr int64_t kDefaultCapacityBytes = int64_t{256} << 20;

  // An empty `compile` means longstride::compile().
  explicit PlanCache(int64_t capacity_bytes = kDefaultCapacityBytes, Compile compile = {});

  // The plan, compiled outside the lock if it is not here; threads that ask for one key at one time share one
  // compilation. What compile() throws, every one of them gets, and nothing is kept. With `pin` the plan is never
  // evicted: stream capture records pointers into it. A plan larger than the capacity is returned and not kept, unless
  // it is pinned.
  std::shared_ptr<const CachedPlan> get(const Pattern&, const Extent&, const Geometry&, Direction, bool pin = false);

  void set_capacity_bytes(int64_t capacity_bytes);  // drops what no longer fits
  void clear();                                     // drops all but pinned plans; the counters stay
  CacheStatistics statistics() const;

 private:
  struct Entry {
    std::shared_future<std::shared_ptr<const CachedPlan>> plan;
    std::list<const PlanKey*>::iterator use;  // in uses_
    int64_t bytes = 0;                        // 0 while it is being compiled
    int64_t id = 0;                           // tells this entry from a later one of the same key
    bool ready = false;
    bool pinned = false;
  };
  using Entries = std::unordered_map<PlanKey, Entry, PlanKeyHash>;

  std::shared_ptr<const CachedPlan> compile_into(const PlanKey& key, int64_t id,
                                                 std::promise<std::shared_ptr<const CachedPlan>> promise);
  void drop(Entries::iterator);
  void evict();  // least recently used first, until the capacity is kept

  const Compile compile_;
  mutable std::mutex mutex_;
  Entries entries_;
  std::list<const PlanKey*> uses_;  // most recent first; points at keys in entries_
  int64_t capacity_bytes_;
  int64_t last_id_ = 0;
  CacheStatistics statistics_;
};

// The one cache that the op uses.
PlanCache& process_cache();

}  // namespace longstride::plan
