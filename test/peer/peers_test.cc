// The peers of bench compute what longstride computes, where the published algorithm is exact: otherwise a comparison
// of their times would mean nothing.
#include "peer/peers.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "longstride/attention.h"

namespace longstride::peer {
namespace {

// The groups of a pattern, as a user of the peers writes them down.
Groups groups_of(const Pattern& pattern, int64_t heads, int64_t kv_heads) {
  Groups groups{{}, {}, {}, pattern.causal()};
  for (const Group& group : pattern.groups()) {
    const auto g = static_cast<int64_t>(groups.rates.size());
    groups.segments.push_back(group.segment);
    groups.rates.push_back(group.rate);
    std::vector<int64_t>& offsets = groups.offsets.emplace_back();
    for (int64_t h = 0; h < heads; ++h) offsets.push_back(pattern.offset(g, h / (heads / kv_heads), kv_heads));
  }
  return groups;
}

double gap(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(Peers, GroupByGroupEqualsAttention) {
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
        const Groups groups = groups_of(pattern, 8, kv_heads);
        for (const bool pipeline : {false, true}) {
          if (pipeline && kv_heads != 8) continue;
          SCOPED_TRACE(pipeline ? "official" : "per_group");
          const HeadRule head_rule = rule == HeadOffset::kModulo ? HeadRule::kModulo : HeadRule::kBlock;
          const PeerResult peer = pipeline ? official(q, k, v, groups, head_rule) : per_group(q, k, v, groups);
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

TEST(Peers, OneGroupIsDenseAttention) {
  for (const bool causal : {false, true}) {
    DilatedOptions options;
    options.causal = causal;
    const Pattern pattern = Pattern::dilated({96}, {1}, options);
    const auto leaf = [](int64_t heads) { return at::randn({1, 96, heads, 16}).requires_grad_(); };
    const at::Tensor q = leaf(4), k = leaf(2), v = leaf(2), d_out = at::randn({1, 96, 4, 16});
    const PeerResult dense = dense_sdpa(q, k, v, causal);
    EXPECT_LT(gap(dense.out, attention(q, k, v, pattern).out), 1e-5);
    const PeerResult peer = per_group(q, k, v, groups_of(pattern, 4, 2));
    const auto peer_grads = torch::autograd::grad({peer.out}, {q, k, v}, {d_out});
    const auto grads = torch::autograd::grad({dense.out}, {q, k, v}, {d_out});
    for (size_t i = 0; i < grads.size(); ++i) EXPECT_LT(gap(peer_grads[i], grads[i]), 1e-4) << i;
  }
}

TEST(Peers, RefuseWhereTheyAreNotExact) {
  const at::Tensor x = at::randn({1, 100, 2, 8});
  const auto groups = [](int64_t segment, int64_t rate) { return Groups{{segment}, {rate}, {{0, 1 % rate}}, false}; };
  for (const auto& [segment, rate] : {std::pair{32, 1}, {50, 4}}) {
    EXPECT_THROW(per_group(x, x, x, groups(segment, rate)), std::invalid_argument);
    EXPECT_THROW(official(x, x, x, groups(segment, rate), HeadRule::kModulo), std::invalid_argument);
  }
  EXPECT_NO_THROW(per_group(x, x, x, groups(50, 5)));
  EXPECT_NO_THROW(official(x, x, x, groups(50, 5), HeadRule::kModulo));
  const at::Tensor one = x.narrow(2, 0, 1);
  EXPECT_THROW(official(x, one, one, groups(50, 5), HeadRule::kModulo), std::invalid_argument);
}

}  // namespace
}  // namespace longstride::peer
