// The plan cache: what it keeps, what it drops, and that many threads get one compilation.
#include "plan/cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <thread>
#include <vector>

#include "longstride/error.h"

namespace longstride::plan {
namespace {

Pattern pattern(int64_t rate = 1) { return Pattern::dilated({16}, {rate}); }

Extent extent(int64_t len) {
  Extent e;
  e.len_q = e.len_k = len;
  return e;
}

// A plan of len * kUnit bytes: so many that what a key takes beside it does not count.
constexpr int64_t kTilesPerToken = 1000;
constexpr int64_t kUnit = kTilesPerToken * static_cast<int64_t>(sizeof(Tile));
// Capacity for `tokens` of such plans.
int64_t room_for(int64_t tokens) { return tokens * kUnit + kUnit / 2; }

Plan weighing(const Pattern&, const Extent& e, const Geometry&, Direction direction) {
  Plan plan;
  plan.direction = direction;
  plan.tiles.resize(kTilesPerToken * e.len_k);
  return plan;
}

constexpr auto kForward = Direction::kForward;

TEST(PlanCache, SecondTimeIsTheSamePlan) {
  PlanCache cache;
  const auto first = cache.get(pattern(), extent(64), {}, kForward);
  EXPECT_FALSE(first->tiles.empty());
  EXPECT_EQ(first, cache.get(pattern(), extent(64), {}, kForward));
  EXPECT_EQ(cache.statistics().hits, 1);
  EXPECT_EQ(cache.statistics().misses, 1);
  EXPECT_EQ(cache.statistics().plans, 1);
  EXPECT_GT(cache.statistics().bytes, first->bytes());
  EXPECT_LT(cache.statistics().bytes, first->bytes() + 2000);
}

TEST(PlanCache, EveryFieldOfABlockPatternCounts) {
  PlanCache cache;
  std::vector<Pattern> all = {pattern(), pattern().with_blocks({BlockPattern(4, Strided{2})})};
  for (const BlockRule& rule : std::vector<BlockRule>{LocalWindow{.window = 8},
                                                      LocalWindow{.window = 16},
                                                      LocalWindow{.density = 0.5},
                                                      LocalWindow{.density = 0.25},
                                                      DilatedSparse{.rates = {1}, .reach = 2},
                                                      DilatedSparse{.rates = {2}, .reach = 2},
                                                      DilatedSparse{.rates = {1, 2}, .reach = 2},
                                                      DilatedSparse{.rates = {1}, .density = 0.5},
                                                      GlobalLocal{8, 4},
                                                      GlobalLocal{8, 8},
                                                      Strided{2},
                                                      Strided{3},
                                                      Axial{},
                                                      Axial{4},
                                                      RandomBlocks{0.5, 1},
                                                      RandomBlocks{0.5, 2},
                                                      RandomBlocks{0.25, 1},
                                                      Hierarchical{{{8, 8}}},
                                                      Hierarchical{{{8, std::nullopt}}},
                                                      Hierarchical{{{16, 8}}},
                                                      BlockList{{{-1, -1, 0, 0}}},
                                                      BlockList{{{-1, -1, 0, 1}}},
                                                      BlockList{{{-1, 0, 0, 0}}},
                                                      BlockList{}}) {
    for (const int64_t size : {4, 8}) {
      for (const bool causal : {false, true}) all.push_back(Pattern::block_sparse({BlockPattern(size, rule)}, causal));
    }
  }
  for (int round = 0; round < 2; ++round) {
    for (const Pattern& one : all) cache.get(one, extent(64), {}, kForward);
  }
  EXPECT_EQ(cache.statistics().misses, static_cast<int64_t>(all.size()));
  EXPECT_EQ(cache.statistics().hits, static_cast<int64_t>(all.size()));
}

TEST(PlanCache, EveryPartOfTheKeyCounts) {
  PlanCache cache;
  const auto first = cache.get(pattern(), extent(64), {}, kForward);
  Extent with_start = extent(64);
  with_start.len_q = 32;
  with_start.query_start = 8;
  Extent packed = extent(64);
  packed.cu_seqlens = {0, 10, 64};
  Extent ragged = extent(64);
  ragged.lengths = {10};
  Geometry geometry;
  geometry.merge_columns = 65;
  Geometry many, dear;
  many.workers = 2;
  dear.part_columns = 65;
  DilatedOptions causal;
  causal.causal = true;
  DilatedOptions table;
  table.offsets = std::vector<int64_t>{0};
  const std::vector<std::shared_ptr<const Plan>> others = {
      cache.get(pattern(2), extent(64), {}, kForward),
      cache.get(Pattern::dilated({16}, {1}, causal), extent(64), {}, kForward),
      cache.get(Pattern::dilated({16}, {1}, table), extent(64), {}, kForward),
      cache.get(pattern(), extent(65), {}, kForward),
      cache.get(pattern(), with_start, {}, kForward),
      cache.get(pattern(), packed, {}, kForward),
      cache.get(pattern(), ragged, {}, kForward),
      cache.get(pattern(), extent(64), geometry, kForward),
      cache.get(pattern(), extent(64), many, kForward),
      cache.get(pattern(), extent(64), dear, kForward),
      cache.get(pattern(), extent(64), {}, Direction::kTransposed)};
  EXPECT_EQ(cache.statistics().misses, 12);
  EXPECT_EQ(cache.statistics().hits, 0);
  for (const auto& other : others) EXPECT_NE(first, other);
}

TEST(PlanCache, DropsTheLeastRecentlyUsed) {
  PlanCache cache(room_for(30), weighing);
  cache.get(pattern(), extent(10), {}, kForward);
  cache.get(pattern(), extent(11), {}, kForward);
  cache.get(pattern(), extent(10), {}, kForward);  // 11 is now the older one
  cache.get(pattern(), extent(12), {}, kForward);  // 33: one must go
  EXPECT_EQ(cache.statistics().evictions, 1);
  EXPECT_NEAR(cache.statistics().bytes, 22 * kUnit, kUnit / 2);
  const int64_t misses = cache.statistics().misses;
  cache.get(pattern(), extent(10), {}, kForward);
  cache.get(pattern(), extent(12), {}, kForward);
  EXPECT_EQ(cache.statistics().misses, misses);
  cache.get(pattern(), extent(11), {}, kForward);
  EXPECT_EQ(cache.statistics().misses, misses + 1);
}

TEST(PlanCache, PlanBeyondTheCapacityIsReturnedAndNotKept) {
  PlanCache cache(room_for(5), weighing);
  EXPECT_EQ(cache.get(pattern(), extent(100), {}, kForward)->tiles.size(), 100 * kTilesPerToken);
  EXPECT_EQ(cache.statistics().plans, 0);
  EXPECT_EQ(cache.statistics().bytes, 0);
}

TEST(PlanCache, PinnedStaysWhateverComes) {
  PlanCache cache(room_for(20), weighing);
  const Plan* pinned = cache.get(pattern(), extent(15), {}, kForward, true).get();
  for (int64_t len = 1; len < 15; ++len) cache.get(pattern(), extent(len), {}, kForward);
  cache.clear();
  cache.set_capacity_bytes(0);
  EXPECT_EQ(cache.statistics().plans, 1);
  EXPECT_EQ(cache.statistics().pinned, 1);
  EXPECT_EQ(cache.get(pattern(), extent(15), {}, kForward).get(), pinned);
  // One that was there before can be pinned too.
  cache.set_capacity_bytes(room_for(1000));
  cache.get(pattern(), extent(16), {}, kForward);
  cache.get(pattern(), extent(16), {}, kForward, true);
  cache.clear();
  EXPECT_EQ(cache.statistics().pinned, 2);
}

TEST(PlanCache, ClearAndCapacity) {
  PlanCache cache(PlanCache::kDefaultCapacityBytes, weighing);
  const auto held = cache.get(pattern(), extent(10), {}, kForward);
  cache.get(pattern(), extent(20), {}, kForward);
  cache.set_capacity_bytes(room_for(25));
  EXPECT_EQ(cache.statistics().plans, 1);
  cache.clear();
  EXPECT_EQ(cache.statistics().plans, 0);
  EXPECT_EQ(cache.statistics().bytes, 0);
  EXPECT_EQ(held->tiles.size(), 10 * kTilesPerToken);  // whoever holds a plan keeps it
}

TEST(PlanCache, RefusalIsPassedOnAndNotKept) {
  PlanCache cache;
  Extent bad = extent(8);
  bad.len_q = 9;
  EXPECT_THROW(cache.get(pattern(), bad, {}, kForward), Error);
  EXPECT_THROW(cache.get(pattern(), bad, {}, kForward), Error);
  EXPECT_EQ(cache.statistics().plans, 0);
  EXPECT_EQ(cache.statistics().misses, 2);
}

TEST(PlanCache, ThreadsThatAskTogetherShareOneCompilation) {
  std::atomic<int> compiled{0};
  PlanCache cache(PlanCache::kDefaultCapacityBytes,
                  [&](const Pattern& p, const Extent& e, const Geometry& g, Direction d) {
                    ++compiled;
                    std::this_thread::sleep_for(std::chrono::milliseconds(50));
                    return weighing(p, e, g, d);
                  });
  std::latch start(8);
  std::vector<std::shared_ptr<const Plan>> plans(8);
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      start.arrive_and_wait();
      plans[t] = cache.get(pattern(), extent(10), {}, kForward);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(compiled, 1);
  for (const auto& plan : plans) EXPECT_EQ(plan, plans[0]);
  EXPECT_EQ(cache.statistics().hits, 7);
}

TEST(PlanCache, RefusalReachesEveryWaiter) {
  PlanCache cache(PlanCache::kDefaultCapacityBytes,
                  [&](const Pattern&, const Extent&, const Geometry&, Direction) -> Plan {
                    std::this_thread::sleep_for(std::chrono::milliseconds(20));
                    throw Error("no");
                  });
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&] {
      try {
        cache.get(pattern(), extent(10), {}, kForward);
      } catch (const Error&) {
        ++refused;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refused, 6);
  EXPECT_EQ(cache.statistics().plans, 0);
}

TEST(PlanCache, WhatIsKeptWithAPlanIsMadeOnceAKeyAndGoesWithIt) {
  PlanCache cache;
  std::weak_ptr<const void> copy;
  int made = 0;
  const auto make = [&]() -> CachedPlan::Kept {
    const auto kept = std::make_shared<const int>(++made);
    copy = kept;
    return kept;
  };
  {
    const auto plan = cache.get(pattern(), extent(64), {}, kForward);
    EXPECT_THROW(plan->kept(0, []() -> CachedPlan::Kept { throw Error("no memory"); }), Error);
    const auto first = plan->kept(0, make);
    EXPECT_EQ(first, plan->kept(0, make));
    EXPECT_EQ(first, cache.get(pattern(), extent(64), {}, kForward)->kept(0, make));
    EXPECT_EQ(made, 1);
    EXPECT_NE(first, plan->kept(1, make));  // another device
    EXPECT_EQ(made, 2);
  }
  EXPECT_FALSE(copy.expired());
  cache.clear();
  EXPECT_TRUE(copy.expired());
}

TEST(PlanCache, ThreadsMixedWithEvictionAndClearing) {
  PlanCache cache(room_for(60), weighing);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t n = 0; n < 200; ++n) {
        const int64_t len = 1 + (n * 7 + t * 13) % 23;
        const auto plan = cache.get(pattern(), extent(len), {}, kForward, n % 97 == 0 && t == 0);
        wrong += static_cast<int64_t>(plan->tiles.size()) != kTilesPerToken * len;
        if (n % 50 == 49) cache.clear();
        if (n % 40 == 39) cache.set_capacity_bytes(room_for(40 + n % 30));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const CacheStatistics s = cache.statistics();
  EXPECT_EQ(s.hits + s.misses, 6 * 200);
  cache.clear();
  EXPECT_EQ(cache.statistics().plans, cache.statistics().pinned);
}

}  // namespace
}  // namespace longstride::plan
