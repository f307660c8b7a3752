// The order in which a launch has the tiles of a plan, and a tile its blocks, without a GPU: lanes, walks, merged rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <numeric>
#include <queue>
#include <vector>

#include "engine/cuda/lanes.h"
#include "engine/cuda/merged_rows.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/pattern.h"
#include "longstride/pattern/json.h"
#include "longstride/plan/walk.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using namespace engine::cuda;

// The blocks that whole_after() counts are whole, stand one behind the other, and are stepped over as one by one.
// Returns how many there were.
int64_t check_whole_blocks(const Plan& plan, const Tile& tile, int32_t stride, Direction direction) {
  constexpr int32_t kWidth = 8;
  int64_t whole = 0;
  for (BlockWalk walk(&plan.runs[tile.run_begin], tile.run_count, direction, kWidth); !walk.done();) {
    const engine::cuda::ColumnBlock first = walk.at(tile.rows, stride, 0);
    const int32_t more = first.masked ? 0 : walk.whole_after();
    BlockWalk one_by_one = walk;
    for (int32_t n = 1; n <= more; ++n) {
      one_by_one.advance();
      const engine::cuda::ColumnBlock b = one_by_one.at(tile.rows, stride, 0);
      EXPECT_FALSE(b.masked);
      EXPECT_EQ(b.column0, first.column0 + (direction == Direction::kForward ? n : -n) * kWidth * stride);
      EXPECT_EQ(b.weight, first.weight);
    }
    one_by_one.advance();
    walk.advance(more + 1);
    EXPECT_EQ(walk.done(), one_by_one.done());
    if (!walk.done()) {
      EXPECT_EQ(walk.at(tile.rows, stride, 0).column0, one_by_one.at(tile.rows, stride, 0).column0);
    }
    whole += more;
  }
  return whole;
}

// The blocks that a kernel walks hold every pair of the plan once, whatever the run: against a plain count. Returns how
// many blocks of 8 columns check_whole_blocks() saw.
int64_t check_walk(const Pattern& pattern, const Extent& extent, const Geometry& geometry, Direction direction) {
  const Plan plan = compile(pattern, extent, geometry, direction);
  EXPECT_EQ(verify(plan.view(), pattern, extent), "");
  int64_t seen = 0, expected = 0, whole = 0;
  for (const Level& level : plan.levels) {
    const auto stride = static_cast<int32_t>(level.stride);
    for_each_stored_tile(plan.view(), level, [&](const Section& section, const Tile& tile) {
      for (BlockWalk walk(&plan.runs[tile.run_begin], tile.run_count, direction, geometry.column_block); !walk.done();
           walk.advance()) {
        const engine::cuda::ColumnBlock b = walk.at(tile.rows, stride, 0);
        int64_t pairs = 0;
        for (int j = b.rows & 0xffff; j < b.rows >> 16; ++j)
          for (int i = 0; i < b.columns; ++i) pairs += i >= j + b.diagonals.begin() && i < j + b.diagonals.end();
        EXPECT_GT(pairs, 0);
        if (!b.masked) {
          EXPECT_EQ(pairs, int64_t{tile.rows} * geometry.column_block);
        }
        seen += pairs * section.repeats;
      }
      whole += check_whole_blocks(plan, tile, stride, direction);
      for (const longstride::Run& run : plan.view().runs_of(tile)) {
        for (int32_t j = 0; j < tile.rows; ++j) {
          const auto [begin, end] = columns_seen(plan.view(), run, j);
          expected += (end - begin) * run.residues * section.repeats;
          if (direction == Direction::kTransposed) {
            EXPECT_EQ(seen_by(run, j), begin < end) << j;
          }
        }
      }
    });
  }
  EXPECT_EQ(seen, expected) << to_json(pattern) << extent.len_k << (direction == Direction::kForward);
  return whole;
}

TEST(CudaHost, WalkSeesEveryPairOnce) {
  int64_t whole = 0;
  for (const bool causal : {false, true}) {
    const Pattern groups = Pattern::dilated({40, 90, 1000}, {1, 3, 6}, {.causal = causal});
    const BlockPattern window{1, SlidingWindow{.left = 150, .right = causal ? 0 : 70, .sink_tokens = 5}};
    for (const Pattern& pattern : {groups, Pattern::block_sparse({window}, causal), groups.with_blocks({window}),
                                   Pattern::block_sparse({{3, LocalWindow{.window = 33}}}, causal)}) {
      for (const int64_t len : {1, 61, 128, 300, 1000}) {
        const Extent extent{.heads = 3, .kv_heads = 3, .len_q = len, .len_k = len};
        for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
          const Geometry geometry = sm90::geometry(direction);
          whole += check_walk(pattern, extent, geometry, direction);
          whole += check_walk(pattern, extent, eager(geometry, 7), direction);
        }
      }
    }
  }
  EXPECT_GT(whole, 1000);
}

TEST(CudaHost, MergedRowsAreThoseOfTheMerge) {
  int64_t found = 0;
  for (int32_t step = 1; step <= 300; ++step) {
    for (const int32_t begin : {0, 1, step - 1, 100}) {
      for (const int32_t rows : {1, 2, 127 / step + 1}) {
        const Merge merge{
            .slot = 5000, .slot_shift = 700, .slot_step = 3, .row_begin = begin, .row_step = step, .rows = rows};
        const MergedRows merged(merge, 100000, 2);
        for (int32_t row = 0; row < 256; ++row) {
          const int64_t slot = merge.slot_of_row(row, 2);
          ASSERT_EQ(merged.slot(row), slot < 0 ? -1 : 100000 + slot) << row << " of " << begin << " by " << step;
          found += slot >= 0;
        }
      }
    }
  }
  EXPECT_GT(found, 2000);
}

// Every tile of every head is in one lane of its launch, partial ones in the slots of the plan, and what takes an
// eighth of a launch stands before all that takes little. Returns how many such tiles there were.
int64_t check_order(const Pattern& pattern, const Extent& extent, const Geometry& geometry, Direction direction) {
  const Plan plan = compile(pattern, extent, geometry, direction);
  constexpr int32_t kGroup = 2, kProcessors = 13;
  const PlanOrder order = order_of(plan.view(), extent.batch, extent.kv_heads, kGroup, kProcessors);
  PlanArrays arrays;
  arrays.sections = order.sections.data();
  arrays.tile_rows = geometry.tile_rows;
  std::map<std::array<int64_t, 5>, int64_t> left;  // tile, repeat, batch row, KV head, slot
  for (int64_t place = 0; place < extent.batch * extent.kv_heads; ++place) {
    for (const Level& level : plan.view().levels_of(plan.classes[plan.class_of[place]])) {
      for (const Section& section : plan.view().sections_of(level)) {
        for (int64_t n = 0; n < section.repeats * section.tile_count; ++n)
          left[{section.tile_begin + n % section.tile_count, n / section.tile_count, place / extent.kv_heads,
                place % extent.kv_heads, level.partial ? section.slot_begin + n * geometry.tile_rows : 0}] = kGroup;
      }
    }
  }
  const auto blocks_of = [&](const Tile& tile) {
    int64_t blocks = 0;
    for (BlockWalk walk(&plan.runs[tile.run_begin], tile.run_count, direction, geometry.column_block); !walk.done();
         walk.advance())
      ++blocks;
    return blocks;
  };
  int64_t long_tiles = 0;
  for (const auto* launches : {&order.partial, &order.base}) {
    for (const LaunchOrder& launch : *launches) {
      std::vector<int64_t> blocks;
      for (int64_t item = 0; item < launch.lanes.back().item_end; ++item) {
        const TilePlace at =
            locate(launch.lanes.data(), static_cast<int32_t>(launch.lanes.size()), kGroup, item, arrays);
        EXPECT_EQ(launch.strides[at.map], at.stride);
        const int32_t tile = order.tiles[at.tile];
        --left[{tile, at.repeat, at.batch, at.kv_head, launches == &order.partial ? at.slot : 0}];
        blocks.push_back(blocks_of(plan.tiles[tile]));
      }
      const double all = static_cast<double>(std::accumulate(blocks.begin(), blocks.end(), int64_t{0})) / kProcessors;
      const auto little = std::find_if(blocks.begin(), blocks.end(), [&](int64_t n) { return n <= all / 32; });
      long_tiles += std::count_if(blocks.begin(), little, [&](int64_t n) { return n > all / 8; });
      EXPECT_EQ(std::count_if(little, blocks.end(), [&](int64_t n) { return n > all / 8; }), 0) << to_json(pattern);
    }
  }
  for (const auto& [tile, items] : left) EXPECT_EQ(items, 0) << to_json(pattern);
  return long_tiles;
}

TEST(CudaHost, LongTilesOfAllHeadsComeFirst) {
  const Extent extent{.batch = 2, .heads = 3, .kv_heads = 3, .len_q = 4096, .len_k = 4096};
  const Pattern groups = Pattern::dilated({512, 2048}, {1, 4}, {.causal = true});
  const BlockPattern global{128, GlobalLocal{.window = 256, .global_tokens = 128}}, strided{128, Strided{8}};
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Geometry geometry = sm90::geometry(direction);
    check_order(groups, extent, geometry, direction);
    EXPECT_EQ(check_order(Pattern::block_sparse({global}), extent, geometry, direction), 12);
    check_order(Pattern::block_sparse({strided}, true), extent, geometry, direction);
    check_order(groups.with_blocks({global}), extent, eager(geometry, 7), direction);
  }
}

// How long the base launch takes, in blocks of columns, where each of `processors` takes the next item when it is done
// with one, over what it would take if all ended together. A tile counts as 2.5 blocks beside its own.
double end_over_best(const Pattern& pattern, const Extent& extent, Direction direction, int32_t processors) {
  const Geometry geometry = sm90::geometry(direction);
  const Plan plan = compile(pattern, extent, geometry, direction);
  const PlanOrder order = order_of(plan.view(), extent.batch, extent.kv_heads, 1, processors);
  PlanArrays arrays;
  arrays.sections = order.sections.data();
  arrays.tile_rows = geometry.tile_rows;
  const LaunchOrder& launch = order.base.at(0);
  std::priority_queue<double, std::vector<double>, std::greater<>> done;
  for (int32_t n = 0; n < processors; ++n) done.push(0);
  double end = 0, sum = 0;
  for (int64_t item = 0; item < launch.lanes.back().item_end; ++item) {
    const TilePlace at = locate(launch.lanes.data(), static_cast<int32_t>(launch.lanes.size()), 1, item, arrays);
    const Tile& tile = plan.tiles[order.tiles[at.tile]];
    double time = 2.5;
    for (BlockWalk walk(&plan.runs[tile.run_begin], tile.run_count, direction, geometry.column_block); !walk.done();
         walk.advance())
      ++time;
    end = std::max(end, done.top() + time);
    done.push(done.top() + time);
    done.pop();
    sum += time;
  }
  return end * processors / sum;
}

TEST(CudaHost, ProcessorsEndTogether) {
  const Extent slide{.heads = 16, .kv_heads = 16, .len_q = 10001, .len_k = 10001};
  const Pattern gigapath = Pattern::dilated({1024, 5792, 32768, 185363, 1048576}, {1, 2, 4, 8, 16},
                                            {.head_offset = HeadOffset::kBlock, .padding = Padding::kZeroKeys});
  const Extent text{.heads = 16, .kv_heads = 16, .len_q = 16384, .len_k = 16384};
  const Pattern dense = Pattern::dilated({16384}, {1}, {.causal = true});
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    EXPECT_LT(end_over_best(gigapath, slide, direction, 132), 1.03);  // 1.08 with long tiles first alone
    EXPECT_LT(end_over_best(dense, text, direction, 132), 1.02);      // 1.03
  }
  // Long tiles of many lengths: 1.20 and 1.25 in one band.
  const Extent page{.heads = 16, .kv_heads = 16, .len_q = 32768, .len_k = 32768};
  const Pattern strided = Pattern::block_sparse({{128, Strided{16}}}, true);
  EXPECT_LT(end_over_best(strided, page, Direction::kTransposed, 132), 1.01);
  const Extent note{.heads = 16, .kv_heads = 16, .len_q = 4096, .len_k = 4096};
  EXPECT_LT(end_over_best(dense, note, Direction::kTransposed, 132), 1.08);
}

// A base launch that only merges is known as such: a decoding step whose keys were cut into parts, and nothing else.
TEST(CudaHost, LaunchesThatOnlyMergeAreKnown) {
  const auto order = [](const Pattern& pattern, const Extent& extent, int32_t workers) {
    Geometry geometry = sm90::geometry(Direction::kForward);
    geometry.workers = workers;
    const Plan plan = compile(pattern, extent, geometry, Direction::kForward);
    return order_of(plan.view(), extent.batch, extent.kv_heads, 1, 132);
  };
  const Extent step{.heads = 4, .kv_heads = 4, .len_q = 1, .len_k = 8192, .query_start = 8191};
  const Pattern dense = Pattern::dilated({8192}, {1}, {.causal = true});
  const PlanOrder parts = order(dense, step, 8);
  ASSERT_EQ(parts.partial.size(), 1);
  EXPECT_FALSE(parts.partial[0].merges_only);
  EXPECT_TRUE(parts.base[0].merges_only);
  EXPECT_FALSE(order(dense, step, 1).base[0].merges_only);
  const Extent whole{.heads = 4, .kv_heads = 4, .len_q = 8192, .len_k = 8192};
  EXPECT_FALSE(order(Pattern::dilated({512, 8192}, {1, 16}, {.causal = true}), whole, 1).base[0].merges_only);
}

// Many tiles of few columns are known as such: batches of short sequences, not long ones, and not a few tiles.
TEST(CudaHost, LaunchesOfShortTilesAreKnown) {
  const auto base = [](int64_t batch, int64_t len, std::vector<int64_t> segments, std::vector<int64_t> rates) {
    const engine::Problem p{.dtype = core::DType::kBFloat16,
                            .batch = batch,
                            .heads = 8,
                            .kv_heads = 8,
                            .len_q = len,
                            .len_k = len,
                            .dim = 64};
    const Extent extent{.batch = batch, .heads = 8, .kv_heads = 8, .len_q = len, .len_k = len};
    const Plan plan = compile(Pattern::dilated(segments, rates), extent, sm90::forward_geometry(p));
    return order_of(plan.view(), batch, 8, 1, 132).base.at(0);
  };
  const LaunchOrder batches = base(64, 512, {128, 256, 512}, {1, 2, 4});
  EXPECT_TRUE(batches.short_tiles);
  EXPECT_EQ(batches.lanes.back().item_end, 64 * 8 * 4);
  EXPECT_EQ(batches.columns, 64 * 8 * 4 * 5 * 64);  // five blocks of 64 a tile
  EXPECT_FALSE(base(1, 512, {128, 256, 512}, {1, 2, 4}).short_tiles);
  EXPECT_TRUE(base(64, 512, {512}, {1}).short_tiles);
  EXPECT_FALSE(base(64, 1024, {1024}, {1}).short_tiles);
  const LaunchOrder few = base(4, 512, {128, 256, 512}, {1, 2, 4});  // planned for the other kernel
  EXPECT_FALSE(few.short_tiles);
  EXPECT_EQ(few.columns, 4 * 8 * 4 * 128);
  EXPECT_FALSE(base(4, 32768, {2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 8, 16}).short_tiles);
  // With a period that is stored once.
  EXPECT_TRUE(base(4, 32768, {128}, {1}).short_tiles);
}

// Every item of a launch is found: its lane, level, section, repeat and member.
TEST(CudaHost, LocateFindsEveryItem) {
  const std::vector<Section> sections = {{0, 3, 1, 0, 0}, {3, 2, 4, 10, 0}, {5, 1, 2, 7, 64}};
  const std::vector<Lane> lanes = {{22, 2, 0, 2, 0, 0, 0}, {26, 4, 2, 1, 1, 1, 1}};  // 11 and 2 tiles, 2 query heads
  PlanArrays arrays;
  arrays.sections = sections.data();
  arrays.tile_rows = 128;
  const auto at = [&](int64_t item) { return locate(lanes.data(), 2, 2, item, arrays); };
  EXPECT_EQ(at(0).tile, 0);
  EXPECT_EQ(at(5).tile, 2);
  EXPECT_EQ(at(5).member, 1);
  EXPECT_EQ(at(6).tile, 3);
  EXPECT_EQ(at(21).tile, 4);
  EXPECT_EQ(at(21).repeat, 3);
  EXPECT_EQ(at(21).shift, 30);
  EXPECT_EQ(at(22).tile, 5);
  EXPECT_EQ(at(22).batch, 1);
  EXPECT_EQ(at(25).repeat, 1);
  EXPECT_EQ(at(25).shift, 7);
  EXPECT_EQ(at(25).slot, 64 + 128);
  EXPECT_EQ(at(25).stride, 4);
}

}  // namespace
}  // namespace longstride::test
