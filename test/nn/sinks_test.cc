// Sinks in modules: a parameter that is 0 at first, saved and cloned. Formula and decoding are checked with the other
// options: transformer_test.cc, longnet_test.cc, longnet_lm_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::refusal;
using testing::HasSubstr;

MultiheadDilatedAttentionOptions options_of(bool sinks) {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 24;
  o.num_heads = 3;
  o.attention.pattern = Pattern::dilated({8, 64}, {1, 2}, {.causal = true});
  o.sinks = sinks;
  return o;
}

TEST(ModuleSinks, AreAParameterOfEachHeadAndAtFirstZero) {
  torch::manual_seed(7);
  MultiheadDilatedAttention with(options_of(true));
  torch::manual_seed(7);
  MultiheadDilatedAttention without(options_of(false));
  EXPECT_FALSE(without->sinks.defined());
  ASSERT_TRUE(with->sinks.requires_grad());
  EXPECT_TRUE(at::equal(with->sinks, at::zeros({3})));
  EXPECT_EQ(with->named_parameters().size(), without->named_parameters().size() + 1);
  EXPECT_TRUE(at::equal(with->out_proj->weight, without->out_proj->weight)) << "sinks draw nothing";
  const Tensor x = torch::randn({2, 40, 24});
  EXPECT_GT(distance(with(x).first, without(x).first), 1e-3) << "a logit of 0 is a key all the same";
  EXPECT_THAT(refusal([&] { load_weights(*without, weights(*with)); }), HasSubstr("sinks"));
}

TEST(ModuleSinks, AreInLseClonedAndReset) {
  MultiheadDilatedAttention module(options_of(true));
  const Tensor x = torch::randn({2, 40, 24});
  {
    const at::NoGradGuard no_grad;
    module->sinks.copy_(at::tensor({-1.0F, 0.5F, 30.0F}));
  }
  MultiheadCall call;
  call.need_lse = true;
  const auto [out, lse] = module(x, call);
  EXPECT_TRUE((*lse > module->sinks.unsqueeze(-1)).logical_or(lse->select(1, 2).unsqueeze(1) >= 30).all().item<bool>());
  const auto copy = std::dynamic_pointer_cast<MultiheadDilatedAttentionImpl>(module->clone());
  EXPECT_TRUE(at::equal(copy->forward(x).first, out));
  EXPECT_FALSE(copy->sinks.is_same(module->sinks));
  module->reset_parameters();
  EXPECT_TRUE(at::equal(module->sinks, at::zeros({3})));
  EXPECT_FALSE(at::equal(copy->sinks, at::zeros({3})));
}

}  // namespace
}  // namespace longstride
