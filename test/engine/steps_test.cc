// Plans of an earlier position: the blocks that a CUDA kernel walks are those of the plan moved on to the position, and
// the engines of the CPU, which walk plans as they are, refuse them. No GPU is needed.
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "engine/cuda/device_plan.h"
#include "longstride/error.h"
#include "longstride/pattern.h"
#include "plan/step_base.h"
#include "test/engine/lent.h"
#include "test/engine/run.h"

namespace longstride::test {
namespace {

using engine::cuda::BlockWalk;
using engine::cuda::ForwardWalk;

using Block = std::tuple<int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, bool, int32_t>;

// All that a kernel is told of a tile's blocks. `runs`: of the tile. With `skip`, past the whole blocks at once.
template <class Walk>
std::vector<Block> walked(Walk walk, int32_t stride, bool skip) {
  std::vector<Block> blocks;
  while (!walk.done()) {
    const engine::cuda::ColumnBlock b = walk.at(1, stride, 0);
    const int32_t more = b.masked ? 0 : walk.whole_after();
    blocks.emplace_back(b.column0, b.columns, b.diagonals.begin(), b.diagonals.end(), b.rows, b.weight, b.masked, more);
    walk.advance(skip ? more + 1 : 1);
  }
  return blocks;
}

TEST(Steps, AKernelWalksAnEarlierPlanAsThePlanOfItsPosition) {
  constexpr int64_t kLen = 3000;
  constexpr int32_t kWidth = 16;
  int64_t blocks = 0;
  for (const auto& [segments, rates] : std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>{
           {{1000, 2000}, {1, 4}}, {{4000}, {1}}, {{600, 1200, 2400}, {2, 2, 16}}, {{700, 2100}, {3, 12}}}) {
    const Pattern pattern = Pattern::dilated(segments, rates, {.causal = true});
    for (int64_t position = 31; position < kLen; position += 37) {
      const Extent extent{.heads = 6, .kv_heads = 6, .len_q = 1, .len_k = kLen, .query_start = position};
      const Extent base = plan::step_base(pattern, extent);
      const int64_t tokens = position - base.query_start;
      const Geometry geometry = eager({.column_block = kWidth}, 7);
      const Plan earlier = compile(pattern, base, geometry), own = plan::advanced(earlier, tokens);
      for (const Level& level : earlier.levels) {
        const auto stride = static_cast<int32_t>(level.stride);
        const int32_t steps = engine::cuda::steps_of(static_cast<int32_t>(tokens), stride);
        for (const Section& section : earlier.view().sections_of(level)) {
          for (const Tile& tile : earlier.view().tiles_of(section)) {
            for (const bool skip : {false, true}) {
              const ForwardWalk as_kernels(&earlier.runs[tile.run_begin], tile.run_count, Direction::kForward, kWidth,
                                           steps);
              const BlockWalk moved(&own.runs[tile.run_begin], tile.run_count, Direction::kForward, kWidth);
              const std::vector<Block> found = walked(as_kernels, stride, skip);
              ASSERT_EQ(found, walked(moved, stride, skip)) << position << " from " << base.query_start;
              blocks += std::ssize(found);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(blocks, 1000);
}

TEST(Steps, EnginesOfTheCpuRefuseThem) {
  const Pattern pattern = Pattern::dilated({64}, {1}, {.causal = true});
  const Plan plan = compile(pattern, {.len_q = 1, .len_k = 33, .query_start = 32}, {});
  for (const Engine& engine : {cpu_engine(), reference_engine()}) {
    engine::ForwardProblem p;
    p.batch = p.heads = p.kv_heads = p.len_q = 1;
    p.len_k = 64;
    p.dim = 8;
    p.query_start = 40;
    p.plan_tokens = 8;
    EXPECT_THROW(engine.forward(p, plan.view(), {}), Error) << engine.name;
  }
}

}  // namespace
}  // namespace longstride::test
