// The memory pool: what a lease is, what is kept and what is counted; then many threads at once.
#include "longstride/memory_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <new>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "longstride/error.h"

namespace longstride {
namespace {

using Lease = UnifiedMemoryPool::Lease;

bool aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(UnifiedMemoryPool::kAlignmentBytes) == 0;
}

TEST(MemoryPool, LeasesAreAlignedWholeAndApart) {
  UnifiedMemoryPool pool;
  std::vector<Lease> leases;
  for (int64_t size = 1; size < 5000; size = size * 5 / 4 + 1) {
    leases.push_back(pool.lease(size));
    EXPECT_TRUE(aligned(leases.back().data())) << size;
    EXPECT_EQ(leases.back().size_bytes(), size);
    std::memset(leases.back().data(), static_cast<int>(leases.size()), static_cast<size_t>(size));
  }
  for (size_t i = 0; i < leases.size(); ++i) {
    const auto* bytes = static_cast<const unsigned char*>(leases[i].data());
    EXPECT_TRUE(std::all_of(bytes, bytes + leases[i].size_bytes(), [&](unsigned char b) { return b == i + 1; })) << i;
  }
}

TEST(MemoryPool, WhatIsGivenBackIsLeasedAgain) {
  UnifiedMemoryPool pool;
  void* first = nullptr;
  {
    const Lease lease = pool.lease(1000);
    first = lease.data();
  }
  EXPECT_EQ(pool.statistics().cached_bytes, 1024);
  const Lease again = pool.lease(900);  // in blocks of 128 that is 1024 too
  EXPECT_EQ(again.data(), first);
  const Lease other = pool.lease(1000);
  EXPECT_NE(other.data(), first);
  const UnifiedMemoryPool::Statistics seen = pool.statistics();
  EXPECT_EQ(seen.hits, 1);
  EXPECT_EQ(seen.misses, 2);
  EXPECT_EQ(seen.live_leases, 2);
  EXPECT_EQ(seen.live_bytes, 2048);
  EXPECT_EQ(seen.cached_bytes, 0);
  EXPECT_EQ(seen.peak_bytes, 2048);
}

TEST(MemoryPool, ABlockMoreThanTwiceAsLargeDoesNotServe) {
  UnifiedMemoryPool pool;
  pool.lease(4096).reset();
  const Lease small = pool.lease(1792);
  EXPECT_EQ(pool.statistics().hits, 0);
  EXPECT_EQ(pool.statistics().cached_bytes, 4096);
  const Lease half = pool.lease(2048);
  EXPECT_EQ(pool.statistics().hits, 1);
}

TEST(MemoryPool, SizesAreRoundedUpByAQuarterAtMost) {
  UnifiedMemoryPool pool;
  for (int64_t size = 64; size < (int64_t{1} << 22); size = size * 9 / 8 + 7) {
    const Lease lease = pool.lease(size);
    const int64_t block = pool.statistics().live_bytes;
    EXPECT_GE(block, size);
    EXPECT_LE(block, std::max(size + size / 4, size + 63));
    EXPECT_EQ(block % 64, 0);
  }
}

TEST(MemoryPool, IdleMemoryIsBoundedAndTheOldestGoes) {
  UnifiedMemoryPool pool({.most_cached_bytes = 3 * 1024});
  Lease a = pool.lease(1024), b = pool.lease(1024), c = pool.lease(1024), d = pool.lease(1024);
  void* const of_b = b.data();
  void* const of_c = c.data();
  void* const of_d = d.data();
  a.reset();
  b.reset();
  c.reset();
  d.reset();  // one too many: a's goes
  EXPECT_EQ(pool.statistics().cached_bytes, 3 * 1024);
  EXPECT_EQ(pool.statistics().live_bytes, 0);
  const Lease first = pool.lease(1024), second = pool.lease(1024), third = pool.lease(1024);
  EXPECT_EQ(first.data(), of_d);
  EXPECT_EQ(second.data(), of_c);
  EXPECT_EQ(third.data(), of_b);
  EXPECT_EQ(pool.statistics().hits, 3);
  // A block larger than the bound is not kept, and drives nothing out.
  Lease large = pool.lease(1 << 20);
  large.reset();
  EXPECT_EQ(pool.statistics().cached_bytes, 0);
  EXPECT_EQ(pool.statistics().peak_bytes, 3 * 1024 + (1 << 20));
}

TEST(MemoryPool, TrimGivesBackWhatIsIdle) {
  UnifiedMemoryPool pool;
  const Lease kept = pool.lease(100);
  for (const int64_t size : {1024, 2048, 4096}) pool.lease(size).reset();
  EXPECT_EQ(pool.statistics().cached_bytes, 1024 + 2048 + 4096);
  pool.trim(4096 + 2048);
  EXPECT_EQ(pool.statistics().cached_bytes, 4096 + 2048);
  pool.trim();
  EXPECT_EQ(pool.statistics().cached_bytes, 0);
  EXPECT_EQ(pool.statistics().live_leases, 1);
  std::memset(kept.data(), 1, 100);
  EXPECT_THROW(pool.trim(-1), Error);
}

TEST(MemoryPool, BadSizesAreRefused) {
  EXPECT_THROW(UnifiedMemoryPool({.most_cached_bytes = 0}), Error);
  EXPECT_THROW(UnifiedMemoryPool({.most_cached_bytes = -1}), Error);
  EXPECT_THROW(UnifiedMemoryPool({.most_live_bytes = 0}), Error);
  UnifiedMemoryPool pool;
  EXPECT_THROW(pool.lease(0), Error);
  EXPECT_THROW(pool.lease(-5), Error);
  EXPECT_THROW(pool.allocate(0), Error);
  EXPECT_THROW(pool.lease(std::numeric_limits<int64_t>::max()), Error);
  EXPECT_EQ(pool.statistics().live_bytes, 0);
  EXPECT_EQ(pool.statistics().misses, 0);
  try {
    pool.lease(-5);
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "size_bytes must be positive, got -5");
  }
}

// Under these two the system's own allocator ends the process instead.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(MemoryPool, WhatTheSystemLacksIsBadAlloc) {
  UnifiedMemoryPool pool;
  EXPECT_THROW(pool.lease(int64_t{1} << 55), std::bad_alloc);
  EXPECT_EQ(pool.statistics().live_bytes, 0);
  EXPECT_EQ(pool.statistics().misses, 0);
}
#endif

TEST(MemoryPool, LiveLeasesCanBeLimited) {
  UnifiedMemoryPool pool({.most_live_bytes = 2048});
  Lease one = pool.lease(1024);
  EXPECT_THROW(pool.lease(1025), Error);
  EXPECT_EQ(pool.statistics().live_bytes, 1024);
  const Lease two = pool.lease(1024);
  EXPECT_THROW(pool.lease(1), Error);
  one.reset();
  const Lease three = pool.lease(1);  // a block of 1024 would be more than twice as large
  EXPECT_EQ(pool.statistics().live_bytes, 1024 + 64);
}

TEST(MemoryPool, ALeaseCanBeMovedAndEndedOnce) {
  UnifiedMemoryPool pool;
  Lease a = pool.lease(64);
  void* const data = a.data();
  Lease b = std::move(a);
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(b.data(), data);
  Lease& itself = b;
  b = std::move(itself);
  EXPECT_EQ(b.data(), data);
  Lease c = pool.lease(64);
  c = std::move(b);  // c's own block goes back
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(pool.statistics().live_leases, 1);
  c.reset();
  c.reset();
  EXPECT_EQ(c.data(), nullptr);
  EXPECT_EQ(pool.statistics().live_leases, 0);
  EXPECT_EQ(pool.statistics().cached_bytes, 128);
}

TEST(MemoryPool, ALeaseMayOutliveThePool) {
  Lease lease;
  {
    UnifiedMemoryPool pool;
    pool.lease(5000).reset();
    lease = pool.lease(100);
  }
  std::memset(lease.data(), 7, 100);
  lease.reset();
}

TEST(MemoryPool, PointersForThoseWhoHoldNoLease) {
  UnifiedMemoryPool pool, another;
  void* const data = pool.allocate(300);
  EXPECT_TRUE(aligned(data));
  int local = 0;
  EXPECT_THROW(pool.free(&local), Error);
  EXPECT_THROW(another.free(data), Error);
  pool.free(data);
  EXPECT_THROW(pool.free(data), Error);  // twice
  pool.free(nullptr);
  EXPECT_EQ(pool.allocate(300), data);
  EXPECT_EQ(pool.statistics().hits, 1);
  pool.free(data);
}

// Threads lease, fill, check and give back; every block is written down while it is live, and none may overlap another.
TEST(MemoryPool, ManyThreads) {
  UnifiedMemoryPool pool({.most_cached_bytes = 64 * 1024});
  constexpr int kThreads = 8, kRounds = 400;
  std::mutex mutex;
  std::map<char*, char*> live;  // begin -> end
  std::atomic<int> wrong{0};
  std::atomic<int64_t> leases{0};
  const auto enter = [&](char* begin, char* end) {
    const std::lock_guard lock(mutex);
    const auto after = live.lower_bound(begin);
    if (after != live.end() && after->first < end) ++wrong;
    if (after != live.begin() && std::prev(after)->second > begin) ++wrong;
    live[begin] = end;
  };
  const auto leave = [&](char* begin) {
    const std::lock_guard lock(mutex);
    live.erase(begin);
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<uint32_t>(t));
      std::vector<Lease> mine;
      for (int round = 0; round < kRounds; ++round) {
        if (mine.size() < 6 && random() % 3 != 0) {
          Lease lease = pool.lease(1 + static_cast<int64_t>(random() % 20'000));
          ++leases;
          auto* data = static_cast<char*>(lease.data());
          enter(data, data + lease.size_bytes());
          std::memset(data, t, static_cast<size_t>(lease.size_bytes()));
          mine.push_back(std::move(lease));
        } else if (!mine.empty()) {
          const size_t which = random() % mine.size();
          auto* data = static_cast<char*>(mine[which].data());
          if (!std::all_of(data, data + mine[which].size_bytes(), [t](char x) { return x == t; })) ++wrong;
          leave(data);
          mine.erase(mine.begin() + static_cast<std::ptrdiff_t>(which));
        }
        if (round % 97 == 0) pool.trim(static_cast<int64_t>(random() % 10'000));
        if (pool.statistics().cached_bytes > 64 * 1024) ++wrong;
      }
      for (const Lease& lease : mine) leave(static_cast<char*>(lease.data()));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const UnifiedMemoryPool::Statistics seen = pool.statistics();
  EXPECT_EQ(seen.live_bytes, 0);
  EXPECT_EQ(seen.live_leases, 0);
  EXPECT_EQ(seen.hits + seen.misses, leases);
  EXPECT_GT(seen.hits, 0);
  EXPECT_LE(seen.cached_bytes, 64 * 1024);
  EXPECT_GE(seen.peak_bytes, seen.cached_bytes);
}

// The limit of live leases holds for all threads together. Nothing is kept idle, so that every lease waits for the
// system between looking at the limit and being handed out.
TEST(MemoryPool, ManyThreadsStayWithinTheLimit) {
  constexpr int64_t kBlock = 1 << 20, kMost = 2 * kBlock;
  UnifiedMemoryPool pool({.most_cached_bytes = 64, .most_live_bytes = kMost});
  std::atomic<int64_t> leased{0}, refused{0}, beyond{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 300; ++round) {
        try {
          const Lease lease = pool.lease(kBlock);
          ++leased;
          static_cast<char*>(lease.data())[0] = 1;
          if (pool.statistics().live_bytes > kMost) ++beyond;
          std::this_thread::yield();
        } catch (const Error&) {
          ++refused;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(beyond, 0);
  EXPECT_GT(leased, 0);
  EXPECT_GT(refused, 0);
  EXPECT_EQ(pool.statistics().live_bytes, 0);
}

}  // namespace
}  // namespace longstride
