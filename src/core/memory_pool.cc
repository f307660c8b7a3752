// The pool: blocks of a few sizes, four to a power of two, idle ones in a queue per size under one lock. Called by the
// op room for the engines' scratch, and by users. An engine leases a few blocks a call, so one lock is enough.
#include "longstride/memory_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <deque>
#include <map>
#include <mutex>
#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/refuse.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace longstride {
namespace {

constexpr auto kAlignment = std::align_val_t{UnifiedMemoryPool::kAlignmentBytes};
// Sizes beyond cannot be rounded up without overflow, and no machine has them.
constexpr int64_t kMostBytes = int64_t{1} << 60;

// What is idle, and the rest of a block beyond what was asked for, is nobody's.
void forbid([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(data, bytes);
#endif
}
void permit([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(data, bytes);
#endif
}

// The least of 64 * {4, 5, 6, 7} / 4 * 2^n (whole lines) that holds `bytes`.
int64_t block_size(int64_t bytes) {
  constexpr int64_t kLine = UnifiedMemoryPool::kAlignmentBytes;
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes)));
  const int64_t step = std::max(power / 4, kLine);
  return (bytes + step - 1) / step * step;
}

}  // namespace

class UnifiedMemoryPool::State {
 public:
  explicit State(const Options& options) : options_(options) {
    if (options.most_cached_bytes <= 0) {
      core::refuse("most_cached_bytes", "must be positive", options.most_cached_bytes);
    }
    if (options.most_live_bytes <= 0) core::refuse("most_live_bytes", "must be positive", options.most_live_bytes);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { release(drop_idle(0)); }

  void* take(int64_t size_bytes) {
    if (size_bytes <= 0) core::refuse("size_bytes", "must be positive", size_bytes);
    if (size_bytes > kMostBytes) core::refuse("size_bytes", fmt::format("must be at most {}", kMostBytes), size_bytes);
    const int64_t block = block_size(size_bytes);
    std::unique_lock lock(mutex_);
    if (block > options_.most_live_bytes - seen_.live_bytes) {
      core::refuse("size_bytes",
                   fmt::format("must leave the leases within most_live_bytes, {}", options_.most_live_bytes),
                   fmt::format("{} beside {} already leased", block, seen_.live_bytes), "end a lease first");
    }
    // Larger blocks serve too, up to twice the size.
    for (auto kept = idle_.lower_bound(block); kept != idle_.end() && kept->first <= 2 * block; ++kept) {
      if (kept->first > options_.most_live_bytes - seen_.live_bytes) break;
      void* data = kept->second.back().data;  // the one given back last is the likeliest to be in a cache
      live_.emplace(data, kept->first);       // before anything changes: it may throw
      ++seen_.hits;
      seen_.cached_bytes -= kept->first;
      begin_lease(kept->first);
      kept->second.pop_back();
      if (kept->second.empty()) idle_.erase(kept);
      lock.unlock();
      permit(data, size_bytes);
      return data;
    }
    // Counted before the lock is let go, so that no other thread takes the same room.
    begin_lease(block);
    lock.unlock();
    void* data = nullptr;
    try {
      data = ::operator new(block, kAlignment);
      forbid(static_cast<char*>(data) + size_bytes, block - size_bytes);
      lock.lock();
      live_.emplace(data, block);
    } catch (...) {
      if (!lock.owns_lock()) lock.lock();
      end_lease(block);
      lock.unlock();
      if (data != nullptr) release({{data, block, 0}});
      throw;
    }
    ++seen_.misses;
    return data;
  }

  void give_back(void* data) {
    std::vector<Idle> dropped;
    {
      const std::lock_guard lock(mutex_);
      const auto found = live_.find(data);
      if (found == live_.end()) {
        core::refuse("data", "must be a live block of this pool", "a pointer that is none",
                     "free each block once, to the pool that it came from");
      }
      const int64_t block = found->second;
      live_.erase(found);
      end_lease(block);
      if (block > options_.most_cached_bytes) {
        dropped.push_back({data, block, 0});
      } else {
        dropped = drop_idle(options_.most_cached_bytes - block);
        forbid(data, block);
        idle_[block].push_back({data, block, ++clock_});
        seen_.cached_bytes += block;
      }
    }
    release(dropped);
  }

  void trim(int64_t keep_bytes) {
    std::vector<Idle> dropped;
    {
      const std::lock_guard lock(mutex_);
      dropped = drop_idle(keep_bytes);
    }
    release(dropped);
  }

  Statistics statistics() const {
    const std::lock_guard lock(mutex_);
    return seen_;
  }

 private:
  struct Idle {
    void* data = nullptr;
    int64_t bytes = 0;
    uint64_t since = 0;
  };

  void begin_lease(int64_t block) {
    seen_.live_bytes += block;
    ++seen_.live_leases;
    seen_.peak_bytes = std::max(seen_.peak_bytes, seen_.live_bytes + seen_.cached_bytes);
  }

  void end_lease(int64_t block) {
    seen_.live_bytes -= block;
    --seen_.live_leases;
  }

  // Takes out the blocks that have been idle longest until at most keep_bytes are left.
  std::vector<Idle> drop_idle(int64_t keep_bytes) {
    std::vector<Idle> dropped;
    while (seen_.cached_bytes > keep_bytes) {
      const auto oldest = std::min_element(idle_.begin(), idle_.end(), [](const auto& a, const auto& b) {
        return a.second.front().since < b.second.front().since;
      });
      dropped.push_back(oldest->second.front());
      seen_.cached_bytes -= oldest->first;
      oldest->second.pop_front();
      if (oldest->second.empty()) idle_.erase(oldest);
    }
    return dropped;
  }

  // To the system, which may take its time: outside the lock.
  static void release(const std::vector<Idle>& blocks) {
    for (const Idle& block : blocks) {
      permit(block.data, block.bytes);
      ::operator delete(block.data, kAlignment);
    }
  }

  const Options options_;
  mutable std::mutex mutex_;
  Statistics seen_;
  uint64_t clock_ = 0;
  std::map<int64_t, std::deque<Idle>> idle_;  // by block size, in the order in which they came back
  std::unordered_map<void*, int64_t> live_;   // sizes of the blocks that are leased
};

UnifiedMemoryPool::Lease::Lease(std::shared_ptr<State> state, void* data, int64_t size_bytes)
    : state_(std::move(state)), data_(data), size_bytes_(size_bytes) {}

UnifiedMemoryPool::Lease::Lease(Lease&& other) noexcept
    : state_(std::move(other.state_)),
      data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

UnifiedMemoryPool::Lease& UnifiedMemoryPool::Lease::operator=(Lease&& other) noexcept {
  if (this == &other) return *this;
  reset();
  state_ = std::move(other.state_);
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  return *this;
}

UnifiedMemoryPool::Lease::~Lease() { reset(); }

void UnifiedMemoryPool::Lease::reset() {
  if (data_ != nullptr) state_->give_back(std::exchange(data_, nullptr));
  size_bytes_ = 0;
  state_.reset();
}

UnifiedMemoryPool::UnifiedMemoryPool(const Options& options) : state_(std::make_shared<State>(options)) {}

// Leases that are still out keep the state alive, but nothing is leased again.
UnifiedMemoryPool::~UnifiedMemoryPool() { state_->trim(0); }

UnifiedMemoryPool::Lease UnifiedMemoryPool::lease(int64_t size_bytes) {
  return Lease(state_, state_->take(size_bytes), size_bytes);
}

void* UnifiedMemoryPool::allocate(int64_t size_bytes) { return state_->take(size_bytes); }

void UnifiedMemoryPool::free(void* data) {
  if (data != nullptr) state_->give_back(data);
}

void UnifiedMemoryPool::trim(int64_t keep_bytes) {
  if (keep_bytes < 0) core::refuse("keep_bytes", "must not be negative", keep_bytes);
  state_->trim(keep_bytes);
}

UnifiedMemoryPool::Statistics UnifiedMemoryPool::statistics() const { return state_->statistics(); }

UnifiedMemoryPool& process_memory_pool() {
  static auto* const pool = new UnifiedMemoryPool;  // never destroyed: tensors may outlive every static object
  return *pool;
}

}  // namespace longstride
