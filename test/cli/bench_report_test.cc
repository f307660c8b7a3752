// Which peers bench lets run a pattern, and what it accepts.
#include "bench_report.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "bench_peers.h"
#include "longstride/error.h"

namespace longstride::cli {
namespace {

TEST(BenchPeers, RunAPatternAndRefuseWhereTheyAreNotExact) {
  const at::Tensor x = at::randn({1, 100, 2, 8});
  const auto run = [&](const char* who, const at::Tensor& kv, const Pattern& pattern) {
    return run_peer(who, x, kv, kv, pattern);
  };
  for (const char* who : {"per_group", "official"}) {
    EXPECT_THROW(run(who, x, Pattern::dilated({32}, {1})), Error);
    EXPECT_THROW(run(who, x, Pattern::dilated({50}, {4})), Error);
    EXPECT_THROW(run(who, x, Pattern::dilated({50}, {5}, {.padding = Padding::kZeroKeys})), Error);
    EXPECT_NO_THROW(run(who, x, Pattern::dilated({50}, {5})));
  }
  EXPECT_THROW(run("official", x.narrow(2, 0, 1), Pattern::dilated({50}, {5})), Error);
  EXPECT_THROW(run("official", x, Pattern::dilated({50}, {5}, {.head_offset = HeadOffset::kGroup})), Error);
  EXPECT_NO_THROW(
      run("per_group", x.narrow(2, 0, 1), Pattern::dilated({50}, {5}, {.head_offset = HeadOffset::kGroup})));
}

TEST(BenchReport, BarsAreHeldAgainstMedians) {
  BenchReport report;
  BenchLine line;
  line.result.bench_case.pattern.segments = {1};
  line.result.bench_case.pattern.rates = {1};
  line.result.runs = {{"dense", {40, 41, 90}}, {"official", {9, 1, 10}}, {"longstride", {3, 2, 100}}};
  line.bar = {"official", 3.0, 4.0, 0.3};
  report.lines = {line};
  EXPECT_DOUBLE_EQ(speedup(line.result, "official"), 3.0);
  EXPECT_TRUE(all_accepted(report));
  EXPECT_NE(bars_text(report).find("accepted"), std::string::npos);
  report.lines[0].bar.accept = 3.1;
  EXPECT_FALSE(all_accepted(report));
  EXPECT_NE(bars_text(report).find("MISSED"), std::string::npos);
  report.lines[0].bar.accept = 3.0;
  report.lines[0].bar.peer_share = 0.2;
  EXPECT_FALSE(all_accepted(report));
  EXPECT_NE(bars_text(report).find("NO"), std::string::npos);
}

}  // namespace
}  // namespace longstride::cli
