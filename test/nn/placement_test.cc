// place(): what it refuses, and modules of one rank. Several ranks at work: parallel/models_on_ranks_test.cc.
#include "longstride/nn/placement.h"

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::random_tokens;
using nn_test::refusal;
using nn_test::small_config;

// Rank 0 of two that exchange nothing: what is refused is refused before.
RankGroup two_ranks() { return c10::make_intrusive<c10d::ProcessGroup>(0, 2); }

MultiheadDilatedAttentionOptions options() {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 16;
  o.num_heads = 2;
  o.attention.pattern = Pattern::dilated({4, 8}, {1, 2});
  return o;
}

MultiheadDilatedAttention placed(const MultiheadDilatedAttentionOptions& o) {
  MultiheadDilatedAttention module(o);
  place(*module, two_ranks());
  return module;
}

TEST(Placement, ModulesOfOneRankAreAsTheyWere) {
  const auto one = c10::make_intrusive<c10d::ProcessGroup>(0, 1);
  LongNetLM model(small_config());
  const Tensor ids = random_tokens(2, 40, 31, 1);
  const Tensor logits = model->forward(ids), loss = model->loss(ids, ids);
  for (const RankGroup& group : {RankGroup(), RankGroup(one)}) {
    place(*model, group, "zigzag");
    EXPECT_TRUE(model->forward(ids).equal(logits));
    EXPECT_TRUE(model->loss(ids, ids).equal(loss));
  }
  place(*model, two_ranks());
  place(*model, {});
  EXPECT_TRUE(model->forward(ids).equal(logits));
}

TEST(Placement, WhatCannotBePlacedIsRefusedAndLeftAsItWas) {
  torch::nn::Linear linear(2, 2);
  EXPECT_EQ(refusal([&] { place(*linear, {}); }),
            "module must have attention of longstride/nn.h in it, got torch::nn::LinearImpl");
  MultiheadDilatedAttention plain(options());
  EXPECT_EQ(refusal([&] { place(*plain, {}, "rows"); }), "layout must be \"contiguous\" or \"zigzag\", got 'rows'");
  MultiheadDilatedAttention own(options(), local_attention(options().attention.pattern));
  torch::nn::ModuleList both;
  both->push_back(plain);
  both->push_back(own);
  EXPECT_EQ(refusal([&] { place(*both, two_ranks()); }),
            "module must be without an AttentionFn where the sequence lies with several ranks, got one of its own; "
            "build it without one");
  place(*both, {});
  EXPECT_EQ(plain->forward(at::randn({1, 8, 16})).first.size(1), 8);
}

TEST(Placement, WhatRanksCannotDoIsRefusedBeforeAnythingIsSent) {
  const Tensor x = at::randn({1, 8, 16});
  MultiheadDilatedAttention module = placed(options());
  MultiheadCall call;
  call.key_padding_mask = at::zeros({1, 8}, at::kBool);
  EXPECT_EQ(refusal([&] { module->forward(x, call); }),
            "key_padding_mask must be unset where the sequence lies with several ranks, got a mask; give lengths of "
            "the whole sequence");
  const std::string decoding =
      "cache must be unset where the sequence lies with several ranks, got one; decode in one process: "
      "place(*module, {})";
  EXPECT_EQ(refusal([&] { module->make_cache(1, 8); }), decoding);
  KeyValueCache cache = MultiheadDilatedAttention(options())->make_cache(1, 8);
  call = {};
  call.cache = &cache;
  const at::NoGradGuard no_grad;
  EXPECT_EQ(refusal([&] { module->forward(x, call); }), decoding);

  DilatedAttention attention(options().attention);
  place(*attention, two_ranks());
  const Tensor q = at::randn({1, 8, 2, 8});
  AttentionOptions start;
  start.query_start = 0;
  EXPECT_EQ(refusal([&] { attention->forward(q, q, q, start); }),
            "query_start must be unset where the sequence lies with several ranks, got 0; decode in one process: "
            "place(*module, {})");
}

TEST(Placement, ModelsRefuseDecodingAndLongInput) {
  LongNetLM model(small_config());
  DecodeState state = model->start_decoding(1, 8);
  place(*model, two_ranks());
  model->eval();
  const std::string decoding = "cache must be unset where the sequence lies with several ranks";
  const Tensor ids = random_tokens(1, 4, 31, 1);
  EXPECT_THAT(refusal([&] { model->start_decoding(1, 8); }), testing::StartsWith(decoding));
  EXPECT_THAT(refusal([&] { model->decode(ids, state); }), testing::StartsWith(decoding));
  EXPECT_EQ(state.length, 0);
  EXPECT_THAT(refusal([&] { generate(model, ids, {.max_tokens = 1}); }), testing::StartsWith(decoding));
  const std::string too_long = "must not be longer than max_len";
  const Tensor half = random_tokens(1, model->config.layer.attention.positions.max_len / 2 + 1, 31, 1);
  EXPECT_THAT(refusal([&] { model->forward(half); }), testing::HasSubstr(too_long));
  EXPECT_EQ(refusal([&] {
              model->forward(ids, {.boundaries = {0, 5}});
            }),
            "tokens must have the 3 rows of the shard of rank 0, got 4; boundaries and layout say who holds which "
            "tokens");
  EXPECT_THAT(refusal([&] { model->forward(ids, {.boundaries = {0, 3, 2}}); }), testing::HasSubstr("boundaries"));
}

TEST(Placement, BoundariesNeedSeveralRanks) {
  const std::string says =
      "boundaries must be empty where this process holds the whole sequence, got [0, 8]; place() the module on a group "
      "of several ranks; cp_attention() has them in its sharding";
  MultiheadDilatedAttention module(options());
  MultiheadCall call;
  call.boundaries = {0, 8};
  EXPECT_EQ(refusal([&] { module->forward(at::randn({1, 8, 16}), call); }), says);
  const Tensor q = at::randn({1, 8, 2, 8});
  AttentionOptions of_attention;
  of_attention.boundaries = {0, 8};
  EXPECT_EQ(refusal([&] { attention(q, q, q, options().attention.pattern, of_attention); }), says);
}

TEST(Placement, AClonedModuleStaysPlaced) {
  LongNetLM model(small_config());
  place(*model, two_ranks());
  const auto copy = std::dynamic_pointer_cast<LongNetLMImpl>(model->clone());
  EXPECT_THAT(refusal([&] { copy->start_decoding(1, 8); }), testing::StartsWith("cache must be unset where"));
  place(*copy, {});
  copy->start_decoding(1, 8);
  EXPECT_NE(refusal([&] { model->start_decoding(1, 8); }), "");
  EXPECT_EQ(LongNetLMConfig::from_json(model->config.to_json()), model->config);
}

}  // namespace
}  // namespace longstride
