// The peers of bench compute what longstride computes, where the published algorithm is exact: otherwise a comparison
// of their times would mean nothing.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "bench_report.h"
#include "longstride/attention.h"
#include "longstride/error.h"
#include "peers.h"

namespace longstride::cli {
namespace {

double gap(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(BenchPeers, GroupByGroupEqualsAttention) {
  for (const HeadOffset rule : {HeadOffset::kModulo, HeadOffset::kBlock}) {
    for (const bool causal : {false, true}) {
      for (const int64_t kv_heads : {8, 4}) {
        SCOPED_TRACE(testing::Message() << name(rule) << " causal " << causal << " kv_heads " << kv_heads);
        DilatedOptions options;
        options.causal = causal;
        options.head_offset = rule;
        const Pattern pattern = Pattern::dilated({32, 64, 512}, {1, 2, 16}, options);
        const auto leaf = [](int64_t heads) { return at::randn({2, 128, heads, 24}).requires_grad_(); };
        const at::Tensor q = leaf(8), k = leaf(kv_heads), v = leaf(kv_heads), d_out = at::randn({2, 128, 8, 24});
        const AttentionResult ours = attention(q, k, v, pattern);
        const auto grads = torch::autograd::grad({ours.out}, {q, k, v}, {d_out});
        for (const auto& run : {per_group, official}) {
          if (run == official && kv_heads != 8) continue;
          SCOPED_TRACE(run == official ? "official" : "per_group");
          const PeerResult peer = run(q, k, v, pattern);
          EXPECT_LT(gap(peer.out, ours.out), 1e-5);
          EXPECT_LT(gap(peer.lse, ours.lse), 1e-5);
          // dv alone: the published algorithm stops the gradient at its mixing weights, which dq and dk feel.
          const auto peer_grads = torch::autograd::grad({peer.out}, {q, k, v}, {d_out});
          EXPECT_LT(gap(peer_grads[2], grads[2]), 1e-4);
          EXPECT_GT(gap(peer_grads[0], grads[0]), 1e-3);
        }
      }
    }
  }
}

TEST(BenchPeers, OneGroupIsDenseAttention) {
  for (const bool causal : {false, true}) {
    DilatedOptions options;
    options.causal = causal;
    const Pattern pattern = Pattern::dilated({96}, {1}, options);
    const auto leaf = [](int64_t heads) { return at::randn({1, 96, heads, 16}).requires_grad_(); };
    const at::Tensor q = leaf(4), k = leaf(2), v = leaf(2), d_out = at::randn({1, 96, 4, 16});
    const PeerResult dense = dense_sdpa(q, k, v, causal);
    EXPECT_LT(gap(dense.out, attention(q, k, v, pattern).out), 1e-5);
    const PeerResult peer = per_group(q, k, v, pattern);
    const auto peer_grads = torch::autograd::grad({peer.out}, {q, k, v}, {d_out});
    const auto grads = torch::autograd::grad({dense.out}, {q, k, v}, {d_out});
    for (size_t i = 0; i < grads.size(); ++i) EXPECT_LT(gap(peer_grads[i], grads[i]), 1e-4) << i;
  }
}

TEST(BenchPeers, GroupByGroupRefusesWhereItIsNotExact) {
  const at::Tensor x = at::randn({1, 100, 2, 8});
  for (const auto& run : {per_group, official}) {
    EXPECT_THROW(run(x, x, x, Pattern::dilated({32}, {1})), Error);
    EXPECT_THROW(run(x, x, x, Pattern::dilated({50}, {4})), Error);
    EXPECT_NO_THROW(run(x, x, x, Pattern::dilated({50}, {5})));
  }
  EXPECT_THROW(official(x, x.narrow(2, 0, 1), x.narrow(2, 0, 1), Pattern::dilated({50}, {5})), Error);
  EXPECT_THROW(official(x, x, x, Pattern::dilated({50}, {5}, {.head_offset = HeadOffset::kGroup})), Error);
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
