// Learned block patterns: attention and its gradients are those of the blocks that its scorer chose.
#include "test/nn/learned_blocks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace longstride::nn_test {
namespace {

using at::Tensor;
using testing::AllOf;
using testing::HasSubstr;

DilatedAttention learned_attention(const LearnedBlocks& learned, bool causal = false) {
  DilatedAttentionOptions o;
  o.learned = learned;
  o.pattern = o.pattern.with_causal(causal);
  return DilatedAttention(o);
}

// Attention over the chosen blocks in torch's own operations.
AttentionResult dense(const Input& in, const Tensor& mask, int64_t block_size, bool causal,
                      const std::vector<int64_t>& lengths, const std::function<Tensor(const Tensor&)>& groups) {
  const int64_t len = in.q.size(1);
  const auto spread = [&](const Tensor& t, int64_t dim) {
    return t.repeat_interleave(block_size, dim).narrow(dim, 0, len);
  };
  Tensor seen = spread(spread(mask, 2), 3);  // [batch, kv_heads, len, len]
  if (causal) seen = seen.tril();
  const Tensor position = at::arange(len);
  const Tensor inside = position.unsqueeze(0) < at::tensor(lengths, at::kLong).unsqueeze(1);  // [batch, len]
  Tensor m = groups((seen & inside.unsqueeze(1).unsqueeze(2) & inside.unsqueeze(1).unsqueeze(3)).to(at::kDouble));
  m = m.repeat_interleave(2, 1);
  const Tensor keys = in.k.repeat_interleave(2, 2).transpose(1, 2),
               values = in.v.repeat_interleave(2, 2).transpose(1, 2);
  const Tensor p = m * (at::matmul(in.q.transpose(1, 2), keys.transpose(2, 3)) / std::sqrt(8.0)).exp();
  const Tensor sum = p.sum(-1);
  const Tensor blind = sum == 0, whole = sum.masked_fill(blind, 1);
  return {at::matmul(p / whole.unsqueeze(-1), values).transpose(1, 2), whole.log().masked_fill(blind, -HUGE_VAL)};
}

TEST(LearnedBlockAttention, IsAttentionOverItsBlocksAndSoAreItsGradients) {
  torch::manual_seed(8);
  const std::vector<int64_t> whole = {61, 61}, shorter = {61, 30};
  for (const bool causal : {false, true}) {
    for (const auto& lengths : {whole, shorter}) {
      for (const bool beside_groups : {false, true}) {
        SCOPED_TRACE(fmt::format("causal {} lengths {} groups {}", causal, lengths[1], beside_groups));
        DilatedAttentionOptions o;
        o.learned = small_blocks();
        if (beside_groups) o.pattern = Pattern::dilated({24}, {3});
        o.pattern = o.pattern.with_causal(causal);
        DilatedAttention module(o);
        module->to(at::kDouble);
        Input in(2, 61, at::kDouble);
        // What lies beyond a row's length may be anything.
        if (lengths[1] < 61) {
          for (const Tensor* t : {&in.q, &in.k, &in.v}) (*t)[1].slice(0, lengths[1]).fill_(std::nan(""));
        }
        for (Tensor* t : {&in.q, &in.k, &in.v}) t->requires_grad_();
        AttentionOptions call;
        if (lengths != whole) call.lengths = lengths;
        BlockChoice choice;
        const AttentionResult r = module(in.q, in.k, in.v, call, &choice);
        EXPECT_EQ(last_engine(), "reference");
        Input clean = in;
        for (Tensor* t : {&clean.q, &clean.k, &clean.v}) *t = at::nan_to_num(t->detach()).requires_grad_();
        const AttentionResult expected = dense(clean, mask_of(choice), 8, causal, lengths, [&](const Tensor& shown) {
          if (!beside_groups) return shown;
          Tensor m = shown.clone();
          for (int64_t b = 0; b < 2; ++b) {
            for (int64_t j = 0; j < 2; ++j) {
              for (int64_t x = 0; x < lengths[b]; ++x) {
                for (int64_t y = 0; y < (causal ? x + 1 : lengths[b]); ++y) {
                  if (x / 24 == y / 24 && x % 24 % 3 == j && y % 24 % 3 == j) m[b][j][x][y] += 1;
                }
              }
            }
          }
          return m;
        });
        EXPECT_LT(distance(r.out, expected.out), 1e-12);
        EXPECT_LT(distance(r.lse.nan_to_num(0, 0, 0), expected.lse.nan_to_num(0, 0, 0)), 1e-12);
        const Tensor a = at::randn_like(expected.out), b = at::randn_like(expected.lse);
        const auto loss = [&](const AttentionResult& x) {
          return (x.out * a).sum() + (x.lse.masked_fill(x.lse.isinf(), 0) * b).sum();
        };
        const auto got = torch::autograd::grad({loss(r)}, {in.q, in.k, in.v});
        const auto wanted = torch::autograd::grad({loss(expected)}, {clean.q, clean.k, clean.v});
        for (size_t n = 0; n < 3; ++n) EXPECT_LT(distance(got[n], wanted[n]), 1e-12) << n;
      }
    }
  }
}

// The gradient that reaches the scores is the gates' own, of the blocks that were computed but not of the diagonal.
TEST(LearnedBlockAttention, GatesReachTheScoresOfTheChosenBlocks) {
  torch::manual_seed(9);
  DilatedAttention module = learned_attention(small_blocks());
  const Input in(2, 61);
  BlockChoice choice;
  const AttentionResult r = module(in.q, in.k, in.v, AttentionOptions{}, &choice);
  const Tensor d = torch::autograd::grad({(r.out * in.q).sum() + r.lse.square().sum()}, {choice.scores})[0];
  Tensor gates = at::ones({choice.blocks.size(0)}).requires_grad_();
  AttentionOptions call;
  call.gates = gates;
  const AttentionResult again =
      attention(in.q, in.k, in.v, R"({"blocks": [{"pattern": "list", "block_size": 8}]})", choice.blocks, call);
  const Tensor of_gates = torch::autograd::grad({(again.out * in.q).sum() + again.lse.square().sum()}, {gates})[0];
  const Tensor expected = at::zeros_like(d);
  for (int64_t n = 0; n < gates.size(0); ++n) {
    const auto at = [&](int64_t c) { return choice.blocks[n][c].item<int64_t>(); };
    if (at(2) != at(3)) expected[at(0)][at(1)][at(2)][at(3)] = of_gates[n];
  }
  EXPECT_TRUE(at::equal(d, expected));
  EXPECT_GT(expected.ne(0).sum().item<int64_t>(), 20);
}

TEST(LearnedBlockAttention, NothingBeforeAChangedTokenMovesIfCausal) {
  torch::manual_seed(10);
  DilatedAttention module = learned_attention(small_blocks(), true);
  module->eval();
  const at::NoGradGuard no_grad;
  const Input in(1, 128);
  const auto run = [&](const Input& x) { return module(x.q, x.k, x.v).out; };
  const Tensor before = run(in);
  int moved = 0;
  for (const int64_t p : {1, 7, 8, 50, 71, 72, 100, 127}) {
    Input changed = in;
    for (Tensor* t : {&changed.q, &changed.k, &changed.v}) {
      *t = t->clone();
      (*t).select(1, p).mul_(-3);
    }
    const Tensor after = run(changed);
    EXPECT_TRUE(at::equal(after.narrow(1, 0, p), before.narrow(1, 0, p))) << p;
    moved += !at::equal(after.slice(1, p + 1), before.slice(1, p + 1));
    // Nor does its end.
    const Input prefix = [&] {
      Input x = in;
      for (Tensor* t : {&x.q, &x.k, &x.v}) *t = t->narrow(1, 0, p);
      return x;
    }();
    if (p > 64) {
      EXPECT_LT(distance(run(prefix), before.narrow(1, 0, p)), 1e-6) << p;
    }
  }
  EXPECT_GE(moved, 6);
}

TEST(LearnedBlockAttention, ClonesSavesAndLoads) {
  torch::manual_seed(11);
  DilatedAttention module = learned_attention(small_blocks(), true);
  module->eval();
  const Input in(2, 61);
  const Tensor before = module(in.q, in.k, in.v).out;
  DilatedAttention copy(std::dynamic_pointer_cast<DilatedAttentionImpl>(module->clone()));
  EXPECT_TRUE(at::equal(copy(in.q, in.k, in.v).out, before));
  const TemporaryFolder folder;
  save_model(folder.path() / "model", copy);
  DilatedAttention loaded = load_model<DilatedAttention>(folder.path() / "model");
  loaded->eval();
  EXPECT_EQ(loaded->options, module->options);
  EXPECT_TRUE(at::equal(loaded(in.q, in.k, in.v).out, before));
  EXPECT_EQ(weights(*module).size(), 5u);
  // The copies have scorers of their own.
  {
    const at::NoGradGuard no_grad;
    copy->scorer->query_out.neg_();
    loaded->scorer->key_in.neg_();
  }
  EXPECT_FALSE(at::equal(copy(in.q, in.k, in.v).out, before));
  EXPECT_FALSE(at::equal(loaded(in.q, in.k, in.v).out, before));
  EXPECT_TRUE(at::equal(module(in.q, in.k, in.v).out, before));
  EXPECT_EQ(DilatedAttentionOptions::from_json(module->options.to_json()), module->options);
  EXPECT_THAT(refusal([] { DilatedAttentionOptions::from_json(R"({"learned": {"blocksize": 4}})"); }),
              AllOf(HasSubstr("unknown key of learned 'blocksize'"), HasSubstr("did you mean 'block_size'?")));
  EXPECT_THAT(refusal([] { DilatedAttentionOptions::from_json(R"({"learned": 4})"); }),
              HasSubstr("learned must be an object, got 4"));
}

TEST(LearnedBlockAttention, IsWhatAMultiheadModuleAndALayerCanHave) {
  torch::manual_seed(12);
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.kv_heads = 2;
  o.attention.learned = small_blocks();
  EXPECT_THAT(refusal([&] { MultiheadDilatedAttention{o}; }),
              HasSubstr("learned.head_dim and learned.kv_heads must be 0 in a multihead module, got 8 and 2"));
  o.attention.learned->head_dim = o.attention.learned->kv_heads = 0;
  MultiheadDilatedAttention module(o);
  const Tensor x = at::randn({2, 61, 32});
  BlockChoice choice;
  MultiheadCall call;
  call.choice = &choice;
  call.lengths = {{61, 40}};
  const Tensor out = module(x, call).first;
  EXPECT_EQ(choice.scores.sizes(), (std::vector<int64_t>{2, 2, 8, 8}));
  (out.square().sum() + choice.density_loss).backward();
  for (const auto& p : module->named_parameters()) {
    EXPECT_TRUE(p.value().grad().defined() && p.value().grad().abs().max().item<double>() > 0) << p.key();
  }
  KeyValueCache cache = module->make_cache(2, 64);
  MultiheadCall decoding;
  decoding.cache = &cache;
  const at::NoGradGuard no_grad;
  EXPECT_THAT(refusal([&] { module(x, decoding); }), HasSubstr("cache must be unset with learned blocks"));

  TransformerLayerOptions layer_options;
  layer_options.attention = o;
  TransformerLayer layer(layer_options);
  choice = {};
  EXPECT_EQ(layer(x, call).sizes(), x.sizes());
  EXPECT_TRUE(choice.density_loss.defined());
}

TEST(LearnedBlockAttention, RunsInHalfPrecision) {
  torch::manual_seed(13);
  DilatedAttention module = learned_attention(small_blocks());
  module->eval();
  const Input in(2, 61);
  BlockChoice exact, half;
  module(in.q, in.k, in.v, AttentionOptions{}, &exact);
  module->to(at::kBFloat16);
  const auto low = [](const Tensor& t) { return t.to(at::kBFloat16).requires_grad_(); };
  const Tensor q = low(in.q), k = low(in.k), v = low(in.v);
  const Tensor out_half = module(q, k, v, AttentionOptions{}, &half).out;
  EXPECT_EQ(out_half.scalar_type(), at::kBFloat16);
  EXPECT_EQ(half.scores.scalar_type(), at::kFloat) << "scores and gates are float32";
  EXPECT_LT(distance(half.scores, exact.scores), 0.1);
  (out_half.square().sum() + half.density_loss).backward();
  for (const Tensor& p : module->parameters()) EXPECT_GT(p.grad().abs().max().item<double>(), 0);
  EXPECT_GT(q.grad().abs().max().item<double>(), 0);
}

TEST(LearnedBlockAttention, RefusesWhatItCannotHonour) {
  const Input in(2, 61);
  DilatedAttention module = learned_attention(small_blocks());
  const auto call = [&](const std::function<void(AttentionOptions&)>& change) {
    AttentionOptions options;
    change(options);
    return refusal([&] { module(in.q, in.k, in.v, options); });
  };
  EXPECT_THAT(call([](auto& o) { o.query_start = 0; }),
              HasSubstr("query_start must be unset with learned blocks, got 0"));
  EXPECT_THAT(
      call([](auto& o) {
        o.cu_seqlens = {{0, 20, 61}};
      }),
      HasSubstr("cu_seqlens must be unset with learned blocks, got 2 documents; give each document a batch row"));
  EXPECT_THAT(call([](auto& o) { o.gates = at::ones({1}); }), HasSubstr("gates must be unset"));
  EXPECT_THAT(call([](auto& o) { o.lengths = {{61}}; }),
              HasSubstr("lengths must have one entry a batch row, 2, got 1"));
  EXPECT_THAT(call([](auto& o) { o.lengths = {{61, 62}}; }), HasSubstr("lengths must be in [0, 61], got 62"));
  EXPECT_THAT(refusal([&] { module(in.q.narrow(1, 0, 30), in.k, in.v); }),
              HasSubstr("q must be [2, 61, a multiple of 2, 8], got [2, 30, 4, 8]"));
  EXPECT_THAT(refusal([&] { module(in.q, in.q, in.q); }), HasSubstr("k must be [batch, len, 2, 8], got [2, 61, 4, 8]"));
  DilatedAttentionOptions both = module->options;
  for (const BlockPattern& beside : {BlockPattern(8, Strided{2}), BlockPattern(1, SlidingWindow{.left = 4})}) {
    both.pattern = Pattern::block_sparse({beside});
    EXPECT_THAT(refusal([&] { DilatedAttention{both}; }),
                AllOf(HasSubstr("blocks must be empty with learned blocks, got 1 patterns"),
                      HasSubstr("not of what a rule shows beside them; give one of the two")))
        << beside.name();
  }
  EXPECT_THAT(refusal([&] { DilatedAttention(module->options, local_attention(module->options.whole_pattern())); }),
              HasSubstr("attend must be empty with learned blocks"));
  DilatedAttention fixed(DilatedAttentionOptions{.pattern = Pattern::dilated({8}, {1})});
  BlockChoice choice;
  EXPECT_THAT(refusal([&] { fixed(in.q, in.k, in.v, AttentionOptions{}, &choice); }),
              HasSubstr("choice must be unset in a module without learned blocks"));
}

}  // namespace
}  // namespace longstride::nn_test
