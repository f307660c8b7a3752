// What the kernels that plan a list of blocks run a thread at a time, run here one after the other: the plans against
// the definition pair by pair, as the host's planner is, and what the kernels of attention read beside them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "engine/cuda/lists/grid.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"

namespace longstride::test {
namespace {

using namespace engine::cuda;

struct Listed {
  Extent extent;
  int64_t block_size = 1;
  bool causal = false;
  std::vector<Block> blocks;
  Geometry geometry;

  Pattern pattern() const { return Pattern::block_sparse({BlockPattern(block_size, BlockList{blocks})}, causal); }
  engine::Problem problem() const {
    engine::Problem p;
    p.batch = extent.batch;
    p.heads = extent.heads;
    p.kv_heads = extent.kv_heads;
    p.len_q = extent.len_q;
    p.len_k = extent.len_k;
    p.query_start = extent.query_start;
    return p;
  }
};

// A plan, and what a transposed one says of its tiles' rows.
struct Made {
  Plan plan;
  std::vector<bool> whole;
};

Made planned(const Listed& of, Direction direction) {
  const lists::Grid g = lists::make_grid(of.problem(), of.block_size, of.causal, of.geometry, direction);
  std::vector<uint32_t> bits(g.bit_words(), 0);
  for (const Block& block : of.blocks) {
    const int32_t row[] = {block.batch_row, block.kv_head, block.query_block, block.key_block};
    EXPECT_FALSE(lists::is_beyond(g, row));
    lists::mark(g, row, [&](int64_t word, uint32_t bit) { bits.at(word) |= bit; });
  }
  Made made;
  Plan& plan = made.plan;
  plan.direction = direction;
  plan.geometry = of.geometry;
  for (int32_t place = 0; place < g.places(); ++place) {
    const Extent& e = of.extent;
    const auto length = static_cast<int32_t>(e.lengths.empty() ? e.len_k : e.lengths[place / g.kv_heads]);
    plan.class_of.push_back(place);
    plan.classes.push_back({.level_begin = place, .level_count = 1});
    plan.levels.push_back({.section_begin = place, .section_count = 1});
    plan.sections.push_back({.tile_begin = std::ssize(plan.tiles), .tile_count = g.tiles});
    for (int32_t t = 0; t < g.tiles; ++t) {
      const lists::TileRows rows(g, t);
      const lists::TileBits of_tile(g, bits.data() + int64_t{place} * g.row_blocks * g.words, rows);
      Tile tile{.row0 = rows.row0, .rows = rows.end - rows.row0};
      tile.run_begin = static_cast<uint32_t>(plan.runs.size());
      for (int32_t word = 0; word < g.words; ++word) {
        of_tile.for_each_run(word, [&](int32_t first, int32_t last, int32_t begin, int32_t end) {
          const Run run = lists::run_of(g, rows, first, last, begin, end, length);
          if (run.columns > 0) plan.runs.push_back(run);
        });
      }
      tile.run_count = static_cast<uint32_t>(plan.runs.size()) - tile.run_begin;
      plan.tiles.push_back(tile);
      bool whole = true;
      for (int32_t b = 0; b < rows.block_end - rows.block_begin; ++b)
        whole = whole && lists::all_seen(g, rows, of_tile, b, length);
      made.whole.push_back(whole);
    }
  }
  EXPECT_LE(std::ssize(plan.runs), g.most_runs(std::ssize(of.blocks)));
  return made;
}

Listed drawn(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto one_of = [&](std::initializer_list<int64_t> values) { return values.begin()[random() % values.size()]; };
  Listed of;
  Extent& e = of.extent;
  e.batch = one_of({1, 2, 3});
  e.kv_heads = one_of({1, 2});
  e.heads = e.kv_heads * one_of({1, 3});
  e.len_k = one_of({0, 1, 37, 128, 200, 255, 384, 500, 1100});
  e.len_q = e.len_k;
  if (random() % 4 == 0 && e.len_k > 1) {
    e.query_start = static_cast<int64_t>(random() % e.len_k);
    e.len_q = 1 + static_cast<int64_t>(random() % (e.len_k - e.query_start));
  }
  if (random() % 3 == 0)
    for (int64_t b = 0; b < e.batch; ++b) e.lengths.push_back(static_cast<int64_t>(random() % (e.len_k + 1)));
  of.causal = random() % 2;
  of.geometry.tile_rows = static_cast<int32_t>(one_of({64, 80, 128}));
  of.geometry.column_block = static_cast<int32_t>(one_of({32, 64, 128}));
  of.block_size = one_of({4, 5, 16, 30, 32, 48, 64, 100, 128, 130, 200, 256, 300, 2000});
  const int64_t blocks = (e.len_k + of.block_size - 1) / of.block_size;
  if (blocks == 0) return of;
  const auto below = [&](int64_t n) { return static_cast<int32_t>(random() % n); };
  const int64_t rows = below(one_of({2, 20, 4 * blocks, 3 * blocks * blocks}));
  const bool holes = random() % 2;  // stretches of query blocks that the list does not name
  while (std::ssize(of.blocks) < rows) {
    Block block{random() % 4 ? below(e.batch) : -1, random() % 4 ? below(e.kv_heads) : -1, below(blocks),
                below(blocks)};
    if (holes && block.query_block % 5 < 3 && blocks > 5) block.query_block = 4;
    of.blocks.push_back(block);
    if (random() % 4 == 0) of.blocks.push_back(of.blocks[below(std::ssize(of.blocks))]);
    const bool row = random() % 8 == 0;
    while ((row || random() % 3 != 0) && block.key_block + 1 < blocks) {  // neighbours, which are one run
      ++block.key_block;
      of.blocks.push_back(block);
    }
  }
  return of;
}

// As the kernels walk it, and as they look whether rows are there.
void check_read(const Listed& of, const Made& made) {
  const Plan& plan = made.plan;
  const lists::Grid g = lists::make_grid(of.problem(), of.block_size, of.causal, of.geometry, plan.direction);
  for (size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    int32_t cost = 0, walked = 0;
    for (uint32_t n = 0; n < tile.run_count; ++n) cost += lists::cost_of(g, plan.runs[tile.run_begin + n]);
    const Run* const runs = plan.runs.data() + tile.run_begin;
    for (BlockWalk walk(runs, tile.run_count, plan.direction, g.column_block); !walk.done(); walk.advance()) ++walked;
    EXPECT_GE(cost, 2 * walked);
    EXPECT_LE(cost, 2 * walked + 2 * static_cast<int32_t>(tile.run_count));
    if (plan.direction == Direction::kForward || !made.whole[t]) continue;
    for (int32_t j = 0; j < tile.rows; ++j)
      ASSERT_TRUE(std::any_of(runs, runs + tile.run_count, [&](const Run& run) { return seen_by(run, j); })) << j;
  }
}

TEST(ListsOnTheDevice, ArePlannedAsTheHostPlansThem) {
  const char* const one = std::getenv("LONGSTRIDE_SEED");
  const uint64_t first = one ? std::strtoull(one, nullptr, 10) : 0, last = one ? first + 1 : 1500;
  int64_t seen = 0, merged = 0, whole = 0;
  for (uint64_t seed = first; seed < last; ++seed) {
    SCOPED_TRACE("rerun: LONGSTRIDE_SEED=" + std::to_string(seed) + " engine_test --gtest_filter=ListsOnTheDevice.*");
    const Listed of = drawn(seed);
    ASSERT_TRUE(lists::fits(of.problem(), of.block_size, of.geometry));
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Made made = planned(of, direction);
      ASSERT_EQ("", verify(made.plan.view(), of.pattern(), of.extent));
      const Plan host = compile(of.pattern(), of.extent, of.geometry, direction);
      const PlanCounts own = count(made.plan.view(), of.extent), theirs = count(host.view(), of.extent);
      ASSERT_EQ(own.seen_pairs, theirs.seen_pairs);
      check_read(of, made);
      if (testing::Test::HasFailure()) return;
      seen += own.seen_pairs;
      for (const auto& run : made.plan.runs) merged += run.columns > of.block_size;
      whole += std::count(made.whole.begin(), made.whole.end(), true);
    }
  }
  if (one) return;
  EXPECT_GT(seen, 1'000'000);
  EXPECT_GT(merged, 10'000);
  EXPECT_GT(whole, 1000);
}

// However many rows there are: a quarter of a million tokens, 64 heads.
TEST(ListsOnTheDevice, MemoryIsBounded) {
  const Listed of{.extent = {.batch = 1, .heads = 64, .kv_heads = 64, .len_q = 1 << 18, .len_k = 1 << 18}};
  const auto runs = [&](int64_t block_size, int64_t rows) {
    return lists::make_grid(of.problem(), block_size, false, of.geometry, Direction::kForward).most_runs(rows);
  };
  EXPECT_EQ(runs(128, 100), 64 * 100);
  EXPECT_EQ(runs(256, 100), 2 * 64 * 100);            // a block of rows is two tiles
  EXPECT_EQ(runs(4096, 1 << 20), 64 * 64 * 32 * 32);  // every second of 64 columns, in each of 32 tiles of 64 rows
  EXPECT_EQ(runs(128, 1 << 20), lists::Grid::kMostRuns);
}

TEST(ListsOnTheDevice, RowsBeyondTheGridAreTold) {
  const Listed of{.extent = {.batch = 2, .heads = 3, .kv_heads = 3, .len_q = 100, .len_k = 100}, .block_size = 32};
  const lists::Grid g = lists::make_grid(of.problem(), of.block_size, false, of.geometry, Direction::kForward);
  const auto beyond = [&](int32_t b, int32_t j, int32_t query, int32_t key) {
    const int32_t row[] = {b, j, query, key};
    return lists::is_beyond(g, row);
  };
  EXPECT_FALSE(beyond(-1, -1, 0, 3));
  EXPECT_FALSE(beyond(1, 2, 3, 0));
  EXPECT_TRUE(beyond(2, 0, 0, 0));
  EXPECT_TRUE(beyond(-2, 0, 0, 0));
  EXPECT_TRUE(beyond(0, 3, 0, 0));
  EXPECT_TRUE(beyond(0, -2, 0, 0));
  EXPECT_TRUE(beyond(0, 0, 4, 0));
  EXPECT_TRUE(beyond(0, 0, -1, 0));
  EXPECT_TRUE(beyond(0, 0, 0, 4));
  EXPECT_TRUE(beyond(0, 0, 0, -1));
}

// What is not planned on the device: blocks of which a tile has more than a warp has lanes, and sequences whose
// positions would not fit.
TEST(ListsOnTheDevice, WhatDoesNotFit) {
  Listed of{.extent = {.len_q = 1000, .len_k = 1000}, .block_size = 4};
  EXPECT_TRUE(lists::fits(of.problem(), 4, of.geometry));
  EXPECT_FALSE(lists::fits(of.problem(), 3, of.geometry));
  of.extent.len_k = (int64_t{1} << 30) + 1;
  EXPECT_FALSE(lists::fits(of.problem(), 128, of.geometry));
}

}  // namespace
}  // namespace longstride::test
