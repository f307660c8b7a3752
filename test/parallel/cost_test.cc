// The cost model against its own formulas by hand, and the choice.
#include "parallel/cost.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "longstride/error.h"
#include "test/plan/patterns.h"

namespace longstride::parallel {
namespace {

using testing::HasSubstr;
using testing::Not;

// The growing configuration, causal, of 12 heads of dim 64 in bfloat16, by the default figures: to three digits what
// the model gives where no exchange takes away the causal skew.
struct Row {
  int64_t len, ranks;
  double forward_ms, backward_ms;
};

ShardedCall growing(int64_t len, int64_t ranks) {
  return {test::growing(len, true), test::square(12, len), Shards::even(len, ranks)};
}

constexpr RowShape kShape{.dim = 64};

TEST(Cost, PredictsLongNet) {
  const int64_t m = test::kMillion;
  for (const Row& row : std::vector<Row>{{m, 1, 16.7, 55.1},
                                         {m, 2, 8.42, 27.7},
                                         {m, 8, 2.25, 7.07},
                                         {m, 64, 0.50, 1.10},
                                         {8 * m, 64, 2.31, 7.14},
                                         {64 * m, 64, 16.8, 55.3},
                                         {64 * m, 256, 4.42, 14.1},
                                         {64 * m, 1024, 1.33, 3.76},
                                         {1024 * m, 256, 66.3, 220},
                                         {1024 * m, 1024, 16.9, 55.4}}) {
    SCOPED_TRACE(fmt::format("{} tokens on {} ranks", row.len, row.ranks));
    const ShardedCall call = growing(row.len, row.ranks);
    const Choice choice = choose(call, survey(call), kShape, Hardware());
    EXPECT_NEAR(row.forward_ms, choice.prediction.forward.total_s * 1e3, 0.025 * row.forward_ms);
    EXPECT_NEAR(row.backward_ms, choice.prediction.backward.total_s * 1e3, 0.025 * row.backward_ms);
    if (row.len / row.ranks < 1 << 15) continue;  // too little of a rank's own to hide the exchange
    EXPECT_EQ(0, choice.prediction.forward.exposed_s);
    EXPECT_EQ(0, choice.prediction.backward.exposed_s);
  }
}

// Milliseconds of forward and backward that two GPUs took, as docs/parallel.md has them.
TEST(Cost, OfTwoGpusByMeasuredFigures) {
  struct Measured {
    int64_t len;
    double ms;
  };
  for (const Measured& of : {Measured{1 << 17, 12.05}, {1 << 18, 23.90}, {1 << 19, 47.69}, {1 << 20, 94.22}}) {
    const ShardedCall call(test::growing(of.len, false), test::square(16, of.len), Shards::even(of.len, 2));
    const Choice choice = choose(call, survey(call), {.dim = 128}, h200());
    EXPECT_NEAR(of.ms, choice.prediction.total_s() * 1e3, 0.05 * of.ms);
  }
}

// Microseconds of the exchange itself, forward and backward.
void expect_exchange(const char* exchange, int64_t ranks, double forward_us, double backward_us) {
  SCOPED_TRACE(fmt::format("{} on {}", exchange, ranks));
  const ShardedCall call = growing(test::kMillion, ranks);
  const Prediction its = choose(call, survey(call), kShape, Hardware(), exchange).prediction;
  EXPECT_NEAR(forward_us, its.forward.exchange_s * 1e6, 0.01);
  EXPECT_NEAR(backward_us, its.backward.exchange_s * 1e6, 0.01);
}

TEST(Cost, OfExchangesByHand) {
  const double row_bytes = 12 * 2 * 64 * 2;
  const auto near = [&](double rows) { return rows * row_bytes / 300e9 * 1e6; };
  const auto far = [&](double rows) { return rows * row_bytes / 42e9 * 1e6; };
  expect_exchange("direct", 8, 12 + 7 * 1.5 + near(3072), 12 + 7 * 1.5 + near(2 * 3072));
  expect_exchange("direct", 64, 25 + 63 * 1.5 + far(6144), 25 + 63 * 1.5 + far(2 * 6144));
  expect_exchange("ladder", 2, 12 + near(1024), 12 + near(2048));
  expect_exchange("ladder", 64, 3 * (12 + near(1024)) + 3 * (25 + far(1024)),
                  3 * (12 + near(2048)) + 3 * (25 + far(2048)));
  // q, k, v and out of the rows of 3 others for 3 of 12 heads, and lse, as many bytes as 1 / 64 of a row of keys; then
  // direct among 16 ranks for 3 heads.
  const auto turned = [&](double shard) { return near(3 * shard * (1.0 / 4) * (2 + 1.0 / 64)); };
  expect_exchange("heads(4)", 64, 3 * (12 + 3 * 1.5) + turned(1 << 14) + 25 + 15 * 1.5 + far(4096.0 / 4),
                  3 * (12 + 3 * 1.5) + turned(1 << 14) + 25 + 15 * 1.5 + far(2 * 4096.0 / 4));
}

// Two ranks and one group of 2 b samples, 32 heads of dim 128, not causal: from about 1,500 rows a rank on, computing
// hides what goes round.
TEST(Cost, OfARing) {
  const auto exposed_us = [](int64_t rows) {
    const ShardedCall call(Pattern::dilated({1 << 20}, {(1 << 19) / rows}), test::square(32, 1 << 20),
                           Shards::even(1 << 20, 2));
    return choose(call, survey(call), {.dim = 128}, Hardware(), "ring").prediction.forward.exposed_s * 1e6;
  };
  EXPECT_NEAR(29, exposed_us(512), 0.5);
  EXPECT_NEAR(25, exposed_us(1024), 0.5);
  EXPECT_EQ(0, exposed_us(2048));

  // Four ranks of 512 samples each: three steps, each hidden by a quarter of the products.
  const ShardedCall call(Pattern::dilated({1 << 20}, {512}), test::square(32, 1 << 20), Shards::even(1 << 20, 4));
  const Prediction its = choose(call, survey(call), {.dim = 128}, Hardware(), "ring").prediction;
  const double row = 32.0 * 2 * 128, part = 4.0 * 32 * 128 * 512 * 512;
  EXPECT_NEAR(3 * (12e-6 + 512 * row * 2 / 300e9), its.forward.exchange_s, 1e-9);
  EXPECT_NEAR(3 * (12e-6 + 512 * row * 2 / 300e9 - part / 400e12), its.forward.exposed_s, 1e-9);
  EXPECT_NEAR(3 * (12e-6 + 512 * row * (2 + 4) / 300e9), its.backward.exchange_s, 1e-9);
}

TEST(Cost, TheFiguresDecide) {
  const auto taken = [&](int64_t ranks, const Hardware& hardware) {
    const ShardedCall call = growing(test::kMillion, ranks);
    return name(choose(call, survey(call), kShape, hardware).plan);
  };
  Hardware hardware;
  EXPECT_EQ("none", taken(1, hardware));
  EXPECT_EQ("direct", taken(8, hardware));
  // Computing for nothing leaves the exchange: direct takes 54 and 85 us, the ladder 67 and 99; heads(2) turn rows
  // for 1.4 ms. With shards of 16k, whose rows turn within a node, direct has 449 and 899 us between nodes.
  hardware.forward_flops.value = hardware.backward_flops.value = hardware.memory_bytes.value = 1e24;
  hardware.launch_s.value = 1e-12;
  EXPECT_EQ("direct", taken(8, hardware));
  EXPECT_EQ("heads(4)", taken(64, hardware));
  hardware.message_s.value = 1e-4;  // the ladder has one peer at a time
  EXPECT_EQ("ladder", taken(8, hardware));
}

TEST(Cost, RefusesFiguresThatAreNone) {
  const ShardedCall call = growing(4096, 2);
  const Survey all = survey(call);
  int refused = 0, figures = 0;
  const Hardware usual;
  for_each_figure(usual, [&](const char*, const Figure&) { ++figures; });
  for (int n = 0; n < figures; ++n) {
    for (const double value : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
      Hardware hardware;
      int at = 0;
      std::string its_name;
      for_each_figure(hardware, [&](const char* name, Figure& figure) {
        if (at++ != n) return;
        figure.value = value;
        its_name = name;
      });
      try {
        predict({Exchange::kDirect}, call, all, kShape, hardware);
        ADD_FAILURE() << its_name << " " << value;
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr("hardware." + its_name + " must be positive and finite"));
        ++refused;
      }
    }
  }
  EXPECT_EQ(44, refused);
  try {
    predict({Exchange::kDirect}, call, all, {.dim = 0}, {});
    ADD_FAILURE() << "not refused: dim 0";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("dim must be positive, got 0"));
  }
}

// Segment 4096 brings its later half 1,024 rows of the earlier one, 8192 likewise: of 12 heads, K and V, 64 elements of
// 2 bytes.
TEST(Cost, OfEveryExchangeByHand) {
  const ShardedCall call = growing(8192, 4);
  const Survey all = survey(call);
  const Choice choice = choose(call, all, kShape, Hardware(), "direct");
  std::string text;
  for (int64_t rank = 0; rank < 4; ++rank) {
    const std::vector<Volume> moved = volumes(choice.plan, call, all, rank, kShape);
    const Volume sum = total(moved);
    text += fmt::format("{} {} {} {} {}\n", moved[0].forward_bytes, moved[1].forward_bytes, moved[2].forward_bytes,
                        sum.forward_bytes, sum.backward_bytes);
  }
  for (const auto& [plan, its] : choice.feasible) {
    text += fmt::format("{} {:.4g} {:.4g} {:.4g} {:.4g}\n", name(plan), its.forward.total_s * 1e3,
                        its.forward.exposed_s * 1e3, its.backward.total_s * 1e3, its.backward.exposed_s * 1e3);
  }
  EXPECT_EQ(text,
            "0 0 0 0 0\n"
            "0 3145728 0 3145728 6291456\n"
            "0 0 3145728 3145728 6291456\n"
            "0 3145728 3145728 6291456 12582912\n"
            "direct 0.0926 0.003358 0.1715 0\n"
            "ladder 0.1001 0.01086 0.1715 0\n"
            "heads(2) 0.1458 0.06164 0.2163 0.06164\n"
            "heads(4) 0.1634 0.0812 0.2292 0.0812\n"
            "ring 0.2015 0.02842 0.2893 0.03406\n");
}

}  // namespace
}  // namespace longstride::parallel
