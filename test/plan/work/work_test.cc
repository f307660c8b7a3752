// How much compiling a plan may do, in basic blocks of the planner (work.h). Bounds are one and a half times what GCC
// 12 counts, for other compilers' sake; where work must grow no quicker than something, the counts of two sizes are
// compared. What it takes in time is bench/plan_bench's to say.
#include "test/plan/work/work.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "test/plan/patterns.h"

namespace longstride::test {
namespace {

struct Counted {
  Plan plan;
  Work work;
  double steps_a_run() const { return static_cast<double>(work.steps) / static_cast<double>(plan.runs.size()); }
};

Counted counted(const Pattern& pattern, const Extent& extent, Direction direction = Direction::kForward) {
  Counted counted;
  counted.work = work_of([&] { counted.plan = compile(pattern, extent, {}, direction); });
  return counted;
}

// The counter counts: a loop's steps follow its length, an allocation's bytes its size.
TEST(Work, IsCounted) {
  std::vector<int64_t> numbers(1000);
  int64_t sum = 0;
  const auto add_up = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) sum += numbers[i] > 0 ? numbers[i] : 1;
  };
  const Work few = work_of([&] { add_up(100); }), many = work_of([&] { add_up(1000); });
  EXPECT_GE(few.steps, 100);
  EXPECT_GE(many.steps, 9 * few.steps);
  EXPECT_EQ(sum, 1100);
  EXPECT_EQ(work_of([&] { numbers = std::vector<int64_t>(5000); }).bytes, 40'000);
}

// 50 ms on one core is the bound of the design; these counts are what that took.
TEST(Work, AMillionTokensOfSixteenHeads) {
  for (const auto& segments : {kFixed, kGrowing}) {
    for (const bool causal : {false, true}) {
      for (const HeadOffset offset : {HeadOffset::kModulo, HeadOffset::kBlock}) {
        const Pattern pattern = Pattern::dilated(segments, kDoubling, {.causal = causal, .head_offset = offset});
        const Counted c = counted(pattern, square(16, kMillion));
        EXPECT_LE(c.work.steps, segments == kFixed ? 23'000'000 : 190'000'000) << "causal " << causal;
        EXPECT_LE(c.work.bytes, segments == kFixed ? 5'100'000 : 190'000'000) << "causal " << causal;
      }
    }
  }
}

TEST(Work, ARunTakesAFewHundredSteps) {
  for (const bool causal : {false, true}) {
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Pattern pattern = Pattern::dilated(kGrowing, kDoubling, {.causal = causal});
      const Counted short_one = counted(pattern, square(16, kMillion / 4), direction);
      const Counted long_one = counted(pattern, square(16, kMillion), direction);
      EXPECT_LE(long_one.steps_a_run(), 430) << "causal " << causal;
      EXPECT_LE(long_one.steps_a_run(), 1.25 * short_one.steps_a_run()) << "causal " << causal;
    }
  }
}

TEST(Work, ADecodingStepDoesNotDependOnTheKeys) {
  for (const auto& segments : {kFixed, kGrowing}) {
    for (const auto& rates : {kDoubling, kLongNet}) {
      const Pattern pattern = Pattern::dilated(segments, rates, {.causal = true});
      const Work near = counted(pattern, step(16, kMillion)).work;
      EXPECT_LE(counted(pattern, step(16, 4096)).work.steps, 10'500);
      for (const int64_t len : {16 * kMillion, 256 * kMillion, int64_t{1} << 40}) {
        const Counted far = counted(pattern, step(16, len));
        EXPECT_LE(far.work.steps, 10'500) << len;
        // A few steps more where a search halves a longer range.
        EXPECT_LE(far.work.steps, near.steps + 500) << len;
        EXPECT_LE(far.work.bytes, near.bytes + 500) << len;
        EXPECT_LE(far.plan.tiles.size(), 16u);
      }
    }
  }
}

// Cut into parts it takes some work for each worker, whatever the keys.
TEST(Work, ADecodingStepInPartsDoesNotDependOnTheKeys) {
  const auto steps = [](int64_t len, int32_t workers) {
    Plan plan;
    const Pattern pattern = Pattern::dilated({len}, {1}, {.causal = true});
    const Work work = work_of([&] { plan = compile(pattern, step(4, len), {.workers = workers}); });
    EXPECT_EQ(count(plan.view(), 0).parts, workers);
    return work.steps;
  };
  const int64_t near = steps(kMillion, 64);
  EXPECT_LE(near, 17'500);
  EXPECT_LE(steps(kMillion, 128), 2.2 * static_cast<double>(near));
  for (const int64_t len : {16 * kMillion, int64_t{1} << 40}) EXPECT_LE(steps(len, 64), near + near / 10) << len;
}

// LongNet's step of 16 heads on a GPU, which is planned at every position: classes that heads share, few allocations.
TEST(Work, ADecodingStepOfManyHeadsInPartsIsShort) {
  const Pattern pattern = Pattern::dilated(kFixed, kDoubling, {.causal = true});
  for (const int64_t len : {kMillion / 8, kMillion / 8 - 5, 16 * kMillion}) {
    Plan plan;
    const Work work = work_of([&] { plan = compile(pattern, step(16, len), {.workers = 8}); });
    EXPECT_EQ(count(plan.view(), 0).parts, 8);
    EXPECT_LE(work.steps, 20'500) << len;
    EXPECT_LE(work.bytes, 46'000) << len;
  }
}

TEST(Work, ADecodingStepOfBlocksDoesNotDependOnTheKeys) {
  for (const BlockPattern& block :
       {BlockPattern(64, LocalWindow{.window = 1024}), BlockPattern(64, DilatedSparse{.rates = {1, 4}, .reach = 8}),
        BlockPattern(64, GlobalLocal{512, 128})}) {
    const Pattern pattern = Pattern::block_sparse({block}, true);
    const Work near = counted(pattern, step(4, 4096)).work;
    EXPECT_LE(near.steps, 6600) << block.name();
    for (const int64_t len : {kMillion, 256 * kMillion}) {
      const Work far = counted(pattern, step(4, len)).work;
      EXPECT_LE(far.steps, near.steps + 100) << block.name() << len;
      EXPECT_LE(far.bytes, near.bytes + 100) << block.name() << len;
    }
  }
}

// A window's plan is as much work as its tiles, and a step of decoding as little whatever stands before it.
TEST(Work, AWindowTakesAsMuchAsItsTiles) {
  const BlockPattern window(1, SlidingWindow{.left = 1023, .right = 200, .sink_tokens = 4});
  for (const bool causal : {false, true}) {
    const Pattern pattern = Pattern::block_sparse({window}, causal);
    for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
      const Counted c = counted(pattern, square(2, kMillion), direction);
      EXPECT_LE(c.steps_a_run(), 310) << causal;
      const Counted quarter = counted(pattern, square(2, kMillion / 4), direction);
      EXPECT_LE(c.steps_a_run(), 1.25 * quarter.steps_a_run()) << causal;
      EXPECT_LE(c.work.bytes, 4'500'000) << causal;
    }
    const Work near = counted(pattern, step(4, 4096)).work;
    EXPECT_LE(near.steps, 1600) << causal;
    for (const int64_t len : {kMillion, 256 * kMillion, int64_t{1} << 40}) {
      const Work far = counted(pattern, step(4, len)).work;
      EXPECT_LE(far.steps, near.steps + 100) << causal << len;
      EXPECT_LE(far.bytes, near.bytes + 100) << causal << len;
    }
  }
}

// Blocks of one token are asked for token by token, and become as few rectangles as a window.
TEST(Work, BlocksOfOneTokenTakeAFewStepsAToken) {
  const Pattern pattern = Pattern::block_sparse({{1, LocalWindow{.window = 2048}}});
  for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
    const Counted c = counted(pattern, square(2, kMillion), direction);
    EXPECT_LE(c.work.steps, 200 * kMillion);
    EXPECT_LE(c.plan.runs.size(), 3 * c.plan.tiles.size());
  }
}

// `documents` of lengths from nothing to twice the mean, the same on every machine.
Extent packed(int64_t len, int64_t documents) {
  Extent extent = square(16, len);
  const int64_t mean = len / documents;
  for (int64_t d = 0; d <= documents; ++d) {
    extent.cu_seqlens.push_back(mean * d + (d % documents ? d * 7919 % mean : 0));
  }
  return extent;
}

// Packed documents cost more a run, since the search must look at many.
TEST(Work, ManyDocuments) {
  struct Packed {
    int64_t len, documents;
    double steps_a_run;
  };
  const Pattern pattern = Pattern::dilated(kFixed, kDoubling, {.causal = true});
  for (const Packed& p :
       {Packed{1024, 512, 2400}, Packed{4096, 64, 1700}, Packed{16384, 64, 800}, Packed{16384, 512, 1400}}) {
    const Counted c = counted(pattern, packed(p.len, p.documents));
    EXPECT_LE(c.steps_a_run(), p.steps_a_run) << p.documents << " documents in " << p.len << " tokens";
  }
  // Four times as many of the same kind are four times the work.
  const Counted few = counted(pattern, packed(16384, 512)), many = counted(pattern, packed(65536, 2048));
  EXPECT_LE(many.work.steps, 4.5 * static_cast<double>(few.work.steps));
  EXPECT_LE(many.work.bytes, 5 * few.work.bytes);
}

// A call of a few tiles is a search and little else: it must not take longer than its attention.
TEST(Work, ShortCalls) {
  for (const int64_t len : {64, 256, 1024}) {
    const Counted c = counted(Pattern::dilated(kFixed, kDoubling, {.causal = true}), square(16, len));
    EXPECT_LE(c.work.steps, 770'000) << len;
  }
}

// What the tiles and runs of a block pattern cost, whatever the rule; absent blocks cost nothing.
TEST(Work, BlockPlansTakeNoMoreThanTheirTilesAndRuns) {
  for (const int64_t size : {16, 64, 256}) {
    for (const BlockPattern& block : block_patterns(size)) {
      for (const bool causal : {false, true}) {
        for (const Direction direction : {Direction::kForward, Direction::kTransposed}) {
          const Pattern pattern = Pattern::block_sparse({block}, causal);
          const Counted c = counted(pattern, square(2, 16 << 10), direction);
          const auto tiles = static_cast<int64_t>(c.plan.tiles.size()), runs = static_cast<int64_t>(c.plan.runs.size());
          EXPECT_LE(c.work.steps, 1100 * (runs + tiles)) << block.name() << ' ' << size << causal;
          if (size == 16) continue;  // a quarter of a million runs of random blocks would prove no more
          const Counted twice = counted(pattern, square(2, 32 << 10), direction);
          EXPECT_LE(twice.steps_a_run(), 1.25 * c.steps_a_run()) << block.name() << ' ' << size << causal;
        }
      }
    }
  }
}

}  // namespace
}  // namespace longstride::test
