// The plan cache: a hash map of shared futures, and a list in order of use.
#include "plan/cache.h"

#include <bit>
#include <type_traits>
#include <utility>

namespace longstride::plan {
namespace {

class Hasher {
 public:
  void add(int64_t value) {
    // The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) over a running sum.
    uint64_t x = state_ + static_cast<uint64_t>(value) + 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    state_ = x ^ (x >> 31);
  }
  void add(double value) { add(std::bit_cast<int64_t>(value + 0.0)); }  // -0.0 is 0.0
  void add(const HierarchyLevel& level) {
    add(level.stride);
    add(level.window);
  }
  void add(const Block& b) {
    add(int64_t{b.batch_row} << 32 | static_cast<uint32_t>(b.kv_head));
    add(int64_t{b.query_block} << 32 | static_cast<uint32_t>(b.key_block));
  }
  template <class T>
  void add(const std::optional<T>& value) {
    add(int64_t{value.has_value()});
    if (value) add(*value);
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(std::ssize(values));
    for (const T& value : values) add(value);
  }
  size_t value() const { return static_cast<size_t>(state_); }

 private:
  uint64_t state_ = 0;
};

// What a field takes beyond itself.
template <class T>
int64_t bytes_beyond(const T&) {
  static_assert(std::is_trivially_copyable_v<T>);
  return 0;
}
template <class T>
int64_t bytes_beyond(const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  return values.size() * sizeof(T);
}

// visit(field) of every field of the rule that a block pattern has.
template <class Visit>
void visit_rule(const BlockPattern& block, const Visit& visit) {
  const auto one = [&](const char*, const auto& field, const FieldNote&) { visit(field); };
  std::visit([&](const auto& rule) { rule.fields(rule, one); }, block.rule());
}

}  // namespace

// What a key takes beside its plan: counted, or a million decode steps would each keep some hundred bytes unseen.
int64_t PlanKey::bytes() const {
  const size_t offsets = pattern.options().offsets ? pattern.options().offsets->size() : 0;
  int64_t blocks = 0;
  for (const BlockPattern& block : pattern.blocks()) {
    blocks += sizeof(BlockPattern);
    visit_rule(block, [&](const auto& field) { blocks += bytes_beyond(field); });
  }
  return blocks + (sizeof(PlanKey) + pattern.groups().size() * sizeof(Group) +
                   (offsets + extent.cu_seqlens.size() + extent.lengths.size()) * sizeof(int64_t));
}

size_t PlanKeyHash::operator()(const PlanKey& key) const {
  Hasher hash;
  for (const Group& group : key.pattern.groups()) {
    hash.add(group.segment);
    hash.add(group.rate);
  }
  const DilatedOptions& options = key.pattern.options();
  hash.add(options.causal + 2 * options.average + 4 * static_cast<int64_t>(options.head_offset) +
           16 * static_cast<int64_t>(options.mixing) + 64 * static_cast<int64_t>(options.padding));
  hash.add(options.offsets);
  for (const BlockPattern& block : key.pattern.blocks()) {
    hash.add(block.block_size());
    hash.add(static_cast<int64_t>(block.rule().index()));
    visit_rule(block, [&](const auto& field) { hash.add(field); });
  }
  const Extent& e = key.extent;
  for (const int64_t value : {e.batch, e.heads, e.kv_heads, e.len_q, e.len_k, e.query_start}) hash.add(value);
  hash.add(e.cu_seqlens);
  hash.add(e.lengths);
  const Geometry& g = key.geometry;
  for (const int64_t value :
       {g.tile_rows, g.column_block, g.column_quantum, g.row_quantum, g.run_row_quantum, g.diagonal_rows, g.workers})
    hash.add(value);
  hash.add(g.merge_columns);
  hash.add(g.run_columns);
  hash.add(g.tile_columns);
  hash.add(g.part_columns);
  hash.add(static_cast<int64_t>(key.direction));
  return hash.value();
}

PlanCache::PlanCache(int64_t capacity_bytes, Compile compile)
    : compile_(compile ? std::move(compile) : Compile(&longstride::compile)), capacity_bytes_(capacity_bytes) {}

std::shared_ptr<const CachedPlan> PlanCache::get(const Pattern& pattern, const Extent& extent, const Geometry& geometry,
                                                 Direction direction, bool pin) {
  PlanKey key{pattern, extent, geometry, direction};
  std::promise<std::shared_ptr<const CachedPlan>> promise;
  int64_t id = 0;
  {
    std::unique_lock lock(mutex_);
    const auto [found, inserted] = entries_.try_emplace(key);
    Entry& entry = found->second;
    if (pin && !entry.pinned) {
      entry.pinned = true;
      ++statistics_.pinned;
    }
    if (!inserted) {
      ++statistics_.hits;
      uses_.splice(uses_.begin(), uses_, entry.use);
      const auto plan = entry.plan;
      lock.unlock();
      return plan.get();
    }
    ++statistics_.misses;
    ++statistics_.plans;
    uses_.push_front(&found->first);
    entry.use = uses_.begin();
    entry.id = id = ++last_id_;
    entry.plan = promise.get_future().share();
  }
  return compile_into(key, id, std::move(promise));
}

std::shared_ptr<const CachedPlan> PlanCache::compile_into(const PlanKey& key, int64_t id,
                                                          std::promise<std::shared_ptr<const CachedPlan>> promise) {
  try {
    auto plan = std::make_shared<const CachedPlan>(compile_(key.pattern, key.extent, key.geometry, key.direction));
    {
      const std::lock_guard lock(mutex_);
      const auto found = entries_.find(key);
      // clear() may have dropped it meanwhile, and another thread may be compiling it anew.
      if (found != entries_.end() && found->second.id == id) {
        found->second.bytes = plan->bytes() + key.bytes() + sizeof(Entry);
        found->second.ready = true;
        statistics_.bytes += found->second.bytes;
        evict();
      }
    }
    promise.set_value(plan);
    return plan;
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = entries_.find(key);
      if (found != entries_.end() && found->second.id == id) drop(found);
    }
    promise.set_exception(std::current_exception());
    throw;
  }
}

void PlanCache::drop(Entries::iterator entry) {
  statistics_.bytes -= entry->second.bytes;
  --statistics_.plans;
  if (entry->second.pinned) --statistics_.pinned;
  uses_.erase(entry->second.use);
  entries_.erase(entry);
}

void PlanCache::evict() {
  for (auto use = uses_.end(); statistics_.bytes > capacity_bytes_ && use != uses_.begin();) {
    --use;
    const auto entry = entries_.find(**use);
    if (entry->second.pinned || !entry->second.ready) continue;
    ++use;  // past the one that goes
    drop(entry);
    ++statistics_.evictions;
  }
}

void PlanCache::set_capacity_bytes(int64_t capacity_bytes) {
  const std::lock_guard lock(mutex_);
  capacity_bytes_ = capacity_bytes;
  evict();
}

void PlanCache::clear() {
  const std::lock_guard lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (!entry->second.pinned) drop(entry);
    entry = next;
  }
}

CacheStatistics PlanCache::statistics() const {
  const std::lock_guard lock(mutex_);
  return statistics_;
}

PlanCache& process_cache() {
  static PlanCache cache;
  return cache;
}

}  // namespace longstride::plan
