// Who does the work: the caller's threads, or the calling thread alone. Called by forward.cc and backward.cc.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "engine/contract.h"

namespace longstride::engine::cpu {

// The forward runs whole heads side by side where there are many; else one after another, each by the whole team. 8
// heads a thread leave at most an eighth of the time to the last one; 64 MiB is what the design allows beyond one
// head's copy.
constexpr bool forward_side_by_side(int64_t heads, int threads, int64_t head_bytes) {
  return heads >= 8 * threads && head_bytes * threads <= (int64_t{64} << 20);
}

// The backward does where that keeps everyone busy; else a head's key tiles are dealt to so many parts of the team.
// Each part has its own dQ, and these together may take 64 MiB beyond the first.
constexpr bool backward_side_by_side(int64_t heads, int threads) {
  return heads >= 4 * threads || heads % threads == 0;
}
constexpr int backward_parts(int64_t dq_bytes, int threads) {
  return static_cast<int>(std::clamp<int64_t>((int64_t{64} << 20) / std::max<int64_t>(1, dq_bytes) + 1, 1, threads));
}

// A team of `threads`, or (Team::alone) the one thread that is already running as number `thread`.
class Team {
 public:
  explicit Team(const Workspace& w) : parallel_for_(w.parallel_for ? &w.parallel_for : nullptr) {
    threads_ = parallel_for_ ? std::max(w.threads, 1) : 1;
  }
  static Team alone(int thread) { return Team(thread); }

  int threads() const { return threads_; }

  // body(index, thread) for every index. Indices are handed out one by one, in order, to whoever is free: a caller's
  // parallel_for may cut its range once and for all, and tiles differ in cost.
  template <class Body>
  void each(int64_t count, const Body& body) const {
    if (!parallel_for_ || threads_ == 1 || count <= 1) {
      for (int64_t i = 0; i < count; ++i) body(i, thread_);
      return;
    }
    std::atomic<int64_t> next{0};
    (*parallel_for_)(std::min<int64_t>(threads_, count), [&](int64_t, int thread) {
      for (int64_t i = next++; i < count; i = next++) body(i, thread);
    });
  }

 private:
  explicit Team(int thread) : thread_(thread) {}
  const ParallelFor* parallel_for_ = nullptr;
  int threads_ = 1;
  int thread_ = 0;
};

}  // namespace longstride::engine::cpu
