// Patterns as text: JSON and block lists through the operator, the gradient of gates against torch's own derivative of
// the dense formula, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "longstride/attention/weights.h"
#include "longstride/pattern/json.h"
#include "test/op/support.h"

namespace longstride::test {
namespace {

using at::Tensor;
using testing::HasSubstr;

const std::string kList = R"({"causal": false, "blocks": [{"pattern": "list", "block_size": 4}]})";

Tensor rows(const std::vector<std::array<int32_t, 4>>& list) {
  std::vector<int32_t> flat;
  for (const auto& row : list) flat.insert(flat.end(), row.begin(), row.end());
  return torch::tensor(flat, at::kInt).reshape({static_cast<int64_t>(list.size()), 4});
}

TEST(PatternAttention, JsonValueAndTensorAreOneCall) {
  const Tensor q = normal(1, {2, 30, 4, 8}), k = normal(2, {2, 30, 2, 8}), v = normal(3, {2, 30, 2, 8});
  const std::vector<std::array<int32_t, 4>> list = {{-1, -1, 0, 0}, {1, -1, 3, 2}, {-1, 1, 7, 1}, {-1, 1, 7, 1}};
  const Pattern pattern = pattern_from_json(
      R"({"blocks": [{"pattern": "list", "block_size": 4, "blocks": [[-1,-1,0,0],[1,-1,3,2],[-1,1,7,1]]}]})");
  const AttentionResult value = attention(q, k, v, pattern);
  const AttentionResult text = attention(q, k, v, to_json(pattern));
  const AttentionResult tensor = attention(q, k, v, kList, rows(list));
  EXPECT_EQ(last_engine(), "cpu");
  for (const AttentionResult& r : {text, tensor}) {
    EXPECT_TRUE(same_bits(r.out, value.out));
    EXPECT_TRUE(same_bits(r.lse, value.lse));
  }
  EXPECT_TRUE(value.lse[0].slice(1, 4, 28).isneginf().all().item<bool>());  // rows that nobody named see nothing
}

TEST(PatternAttention, AllBlocksAreDenseAndOnesStayOnes) {
  for (const bool causal : {false, true}) {
    const Tensor q = normal(1, {1, 300, 2, 16}), k = normal(2, {1, 300, 2, 16}), v = normal(3, {1, 300, 2, 16});
    const Pattern all = Pattern::block_sparse({BlockPattern(32, Strided{1})}, causal);
    const Tensor dense =
        at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0, causal);
    EXPECT_LT((attention(q, k, v, all).out - dense.transpose(1, 2)).abs().max().item<double>(), 2e-6);
    for (
        const char* pattern :
        {R"("local_window", "block_size": 16, "window": 40)",
         R"("dilated_sparse", "block_size": 16, "rates": [1, 3], "density": 0.3)",
         R"("global_local", "block_size": 32, "window": 64, "global_tokens": 20)",
         R"("strided", "block_size": 16, "stride_blocks": 4)", R"("axial", "block_size": 16)",
         R"("random", "block_size": 16, "density": 0.3, "seed": 3)",
         R"("hierarchical", "block_size": 16, "levels": [{"stride": 64, "window": 100}, {"stride": 128, "global": true}])"}) {
      const std::string text = std::string(R"({"causal": )") + (causal ? "true" : "false") +
                               R"(, "blocks": [{"pattern": )" + pattern + "}]}";
      const Tensor out = attention(q, k, at::ones_like(v), text).out;
      EXPECT_LT((out - 1).abs().max().item<double>(), 1e-6) << text;
    }
  }
}

// softmax with multiplicities in torch's own operators, gates and all.
struct DenseCase {
  oracle::Options groups;  // without block patterns
  int64_t block_size;
  std::vector<std::array<int32_t, 4>> list;

  // log of the weights is -inf where nothing is seen: those pairs are kept out of the derivative.
  AttentionResult run(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& gates) const {
    const oracle::Options& o = groups;
    Tensor m = at::zeros({o.batch, o.kv_heads, o.len_q, o.len_k}, at::kDouble);
    Tensor cell = at::zeros({o.batch, o.kv_heads, o.len_q, o.len_k}, at::kLong);  // 1 + index into `sums`
    std::map<std::array<int64_t, 4>, int64_t> known;
    for (int64_t b = 0; b < o.batch; ++b) {
      for (int64_t j = 0; j < o.kv_heads; ++j) {
        const oracle::Sight sight(o, b, j);
        for (int64_t i = 0; i < o.len_q; ++i) {
          for (int64_t p = 0; p < o.len_k; ++p) {
            const int64_t at = o.query_start + i;
            m[b][j][i][p] = static_cast<double>(sight.multiplicity(at, p));
            if (o.causal && p > at) continue;
            if (!o.lengths.empty() && std::max(p, at) >= o.lengths[b]) continue;
            for (size_t n = 0; n < list.size(); ++n) {
              const auto [row, head, query, key] = list[n];
              if ((row == -1 || row == b) && (head == -1 || head == j) && query == at / block_size &&
                  key == p / block_size)
                cell[b][j][i][p] = static_cast<int64_t>(n) + 1;
            }
          }
        }
      }
    }
    const Tensor shown = at::cat({at::zeros({1}, at::kDouble), gates}).index({cell});
    const Tensor weights = (m + shown).repeat_interleave(o.heads / o.kv_heads, 1);
    const Tensor seen = weights > 0;
    const Tensor keys = k.repeat_interleave(o.heads / o.kv_heads, 2).transpose(1, 2);
    const Tensor vals = v.repeat_interleave(o.heads / o.kv_heads, 2).transpose(1, 2);
    const Tensor scores = at::matmul(q.transpose(1, 2), keys.transpose(2, 3)) * o.scale_used();
    const Tensor e = at::where(seen, weights * scores.exp(), 0.0);
    const Tensor sum = e.sum(-1);
    const Tensor blind = sum == 0;
    const Tensor whole = sum.masked_fill(blind, 1);
    return {at::matmul(e / whole.unsqueeze(-1), vals).transpose(1, 2), whole.log().masked_fill(blind, 0)};
  }
};

std::vector<DenseCase> dense_cases() {
  DenseCase plain{{}, 4, {{0, 0, 0, 0}, {0, 1, 1, 0}, {1, 0, 2, 3}, {-1, -1, 2, 2}, {1, -1, 3, 0}, {-1, 0, 3, 3}}};
  plain.groups.batch = 2;
  plain.groups.heads = 4;
  plain.groups.kv_heads = 2;
  plain.groups.len_q = plain.groups.len_k = 14;
  plain.groups.dim = 3;
  DenseCase causal = plain;
  causal.groups.causal = true;
  DenseCase hybrid = causal;
  hybrid.groups.segments = {4, 8};
  hybrid.groups.rates = {1, 3};
  DenseCase lengths = hybrid;
  lengths.groups.causal = false;
  lengths.groups.lengths = {14, 9};
  DenseCase decoding = plain;
  decoding.groups.len_q = 5;
  decoding.groups.query_start = 7;
  return {plain, causal, hybrid, lengths, decoding};
}

TEST(PatternAttention, GateGradientIsTheDerivativeOfTheDenseFormula) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const DenseCase& c : dense_cases()) {
      const oracle::Options& o = c.groups;
      const Tensor q = normal(1, {o.batch, o.len_q, o.heads, o.dim}, dtype);
      const Tensor k = normal(2, {o.batch, o.len_k, o.kv_heads, o.dim}, dtype);
      const Tensor v = normal(3, {o.batch, o.len_k, o.kv_heads, o.dim}, dtype);
      const Tensor a = normal(4, q.sizes(), dtype), b = normal(5, {o.batch, o.heads, o.len_q}, dtype);
      Tensor gates = at::ones({static_cast<int64_t>(c.list.size())}, at::kDouble).requires_grad_();
      const auto dense_loss = [&](const Tensor& g) {
        const auto [out, lse] = c.run(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), g);
        return (out * a).sum() + (lse * b).sum();
      };
      const Tensor expected = torch::autograd::grad({dense_loss(gates)}, {gates})[0];
      {
        // Torch's derivative is that of finite differences of one gate on its block's logit: e^s g = e^(s + ln g).
        Tensor above = gates.detach().clone(), below = above.clone();
        above[2] += 1e-5;
        below[2] -= 1e-5;
        EXPECT_NEAR(((dense_loss(above) - dense_loss(below)) / 2e-5).item<double>(), expected[2].item<double>(), 1e-7);
      }
      std::string text = R"({"causal": )" + std::string(o.causal ? "true" : "false");
      if (!o.segments.empty()) text += R"(, "dilated": {"segment_lengths": [4, 8], "dilation_rates": [1, 3]})";
      text += R"(, "blocks": [{"pattern": "list", "block_size": 4}]})";
      AttentionOptions options;
      if (!o.lengths.empty()) options.lengths = o.lengths;
      if (o.query_start > 0) options.query_start = o.query_start;
      options.gates = at::ones({static_cast<int64_t>(c.list.size())}, dtype).requires_grad_();
      const auto [out, lse] = attention(q, k, v, text, rows(c.list), options);
      const Tensor loss = (out * a).sum() + (lse.masked_fill(lse.isneginf(), 0) * b).sum();
      const Tensor d = torch::autograd::grad({loss}, {*options.gates})[0];
      EXPECT_EQ(last_engine(), dtype == at::kDouble ? "reference" : "cpu");
      EXPECT_LT((d - expected).abs().max().item<double>(), dtype == at::kDouble ? 1e-12 : 2e-5) << text;
      // Blocks above the diagonal and those without a query in the call have none.
      EXPECT_GE(expected.ne(0).sum().item<int64_t>(), 2) << "gates must matter here, or the case shows nothing";
    }
  }
}

TEST(AttentionWeights, AreTheWeightsOfTheOutput) {
  const Tensor q = normal(1, {2, 21, 4, 8}), k = normal(2, {2, 21, 2, 8}), v = normal(3, {2, 21, 2, 8});
  const BlockPattern local(4, LocalWindow{.window = 12});
  for (const Pattern& pattern :
       {Pattern::dilated({4, 8}, {1, 2}), Pattern::dilated({8}, {4}, {.causal = true}),
        Pattern::block_sparse({local}, true), Pattern::dilated({8, 16}, {1, 3}).with_blocks({local})}) {
    const Tensor weights = attention_weights(q, k, pattern);  // [batch, heads, len_q, len_k]
    const AttentionResult r = attention(q, k, v, pattern);
    const Tensor out = at::matmul(weights, v.repeat_interleave(2, 2).transpose(1, 2)).transpose(1, 2);
    EXPECT_LT((out - r.out).abs().max().item<double>(), 2e-6);
    EXPECT_TRUE(at::equal(weights.sum(-1) > 0.5, r.lse.isneginf().logical_not()));
  }
  for (const bool causal : {false, true}) {
    const Pattern pattern = Pattern::block_sparse({local}, causal);
    const Tensor dense = attention_weights(q, k, pattern);
    const auto [blocks, weights] = block_attention_weights(q, k, pattern);
    Tensor again = at::zeros({2, 4, 24, 24});
    for (int64_t n = 0; n < blocks.size(0); ++n) {
      const auto at = [&](int64_t c) { return blocks[n][c].item<int64_t>(); };
      again[at(0)][at(1)].slice(0, at(2) * 4, at(2) * 4 + 4).slice(1, at(3) * 4, at(3) * 4 + 4).copy_(weights[n]);
    }
    EXPECT_LT((again.slice(2, 0, 21).slice(3, 0, 21) - dense).abs().max().item<double>(), 2e-6);
    EXPECT_EQ(again.slice(2, 21).abs().max().item<double>(), 0);
  }
  EXPECT_THAT(refusal([&] { attention_weights(q, k, Pattern::dilated({4}, {1}, {.padding = Padding::kZeroKeys})); }),
              HasSubstr("phantom keys have no column"));
  EXPECT_THAT(refusal([&] { block_attention_weights(q, k, Pattern::dilated({4}, {1})); }),
              HasSubstr("must be one block pattern"));
}

TEST(PatternAttention, MetaGivesShapes) {
  const auto run = [](at::Device device) {
    Tensor q = torch::zeros({2, 12, 4, 8}, device).requires_grad_();
    Tensor k = torch::zeros({2, 12, 2, 8}, device).requires_grad_();
    AttentionOptions options;
    options.gates = torch::ones({2}, device).requires_grad_();
    const Tensor blocks = rows({{-1, -1, 0, 0}, {0, 1, 2, 1}}).to(device);
    const AttentionResult r = attention(q, k, k, kList, blocks, options);
    const auto d = torch::autograd::grad({r.out}, {q, k, *options.gates}, {at::zeros_like(r.out)});
    return std::vector<Tensor>{r.out, r.lse, d[0], d[1], d[2]};
  };
  const auto real = run(at::kCPU), meta = run(at::kMeta);
  for (size_t i = 0; i < real.size(); ++i) {
    EXPECT_TRUE(meta[i].is_meta());
    EXPECT_EQ(meta[i].sizes(), real[i].sizes());
    EXPECT_EQ(meta[i].scalar_type(), real[i].scalar_type());
  }
}

TEST(PatternAttentionRefuses, BadArguments) {
  const Tensor q = normal(1, {1, 10, 2, 8});
  const auto ask = [&](const std::string& text, const std::optional<Tensor>& blocks,
                       const AttentionOptions& options = {}) {
    return refusal([&] { attention(q, q, q, text, blocks, options); });
  };
  const Tensor good = rows({{-1, -1, 0, 0}});
  EXPECT_NO_THROW(attention(q, q, q, kList, good));
  EXPECT_THAT(ask(kList, {}), HasSubstr("blocks[0].blocks must be given"));
  EXPECT_THAT(ask(kList, good.to(at::kLong)), HasSubstr("blocks must be int32 [rows, 4]"));
  EXPECT_THAT(ask(kList, good.reshape({4})), HasSubstr("blocks must be int32 [rows, 4]"));
  EXPECT_THAT(ask(kList, rows({{0, 0, 3, 0}})), HasSubstr("blocks[0].query_block must be below 3, got 3"));
  EXPECT_THAT(ask(kList, rows({{1, 0, 0, 0}})), HasSubstr("blocks[0].batch_row must be below 1, got 1"));
  EXPECT_THAT(ask(kList, rows({{0, 2, 0, 0}})), HasSubstr("blocks[0].kv_head must be below 2, got 2"));
  EXPECT_THAT(ask(R"({"blocks": [{"pattern": "axial", "block_size": 4}]})", good), HasSubstr("must have a \"list\""));
  AttentionOptions options;
  options.cu_seqlens = {{0, 4, 10}};
  EXPECT_THAT(ask(kList, good, options), HasSubstr("cu_seqlens cannot be given with an explicit list of blocks"));
  options.cu_seqlens = std::nullopt;
  options.gates = at::ones({2});
  EXPECT_THAT(ask(kList, good, options), HasSubstr("gates must be Float with one entry a row of blocks, 1"));
  options.gates = at::full({1}, 0.5);
  EXPECT_THAT(ask(kList, good, options), HasSubstr("gates must all be 1"));
  options.gates = at::ones({1});
  EXPECT_THAT(ask(R"({"blocks": [{"pattern": "axial", "block_size": 4}]})", {}, options),
              HasSubstr("gates must belong to the rows of blocks"));
  EXPECT_THAT(refusal([&] { attention(q, q, q, Pattern::dilated({4}, {1}), options); }),
              HasSubstr("gates must belong to the rows of blocks, got no blocks"));
  EXPECT_THAT(ask(R"({"blocks": [{"pattern": "random", "block_size": 4, "density": 0.1}]})", {}),
              HasSubstr("nearest that can be reached is 0.333333"));
}

}  // namespace
}  // namespace longstride::test
