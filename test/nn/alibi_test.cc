// ALiBi in modules: the slopes of the paper, no parameter and no element that is turned, saved models. Formula and
// decoding are checked with those of the other positions: longnet_test.cc, transformer_test.cc, longnet_lm_test.cc.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::random_tokens;
using nn_test::refusal;
using testing::HasSubstr;

// Of the paper's own code, get_slopes(n).
TEST(AlibiSlopes, AreThoseOfThePaper) {
  const auto expect = [](int64_t heads, std::vector<double> logs) {
    const Tensor slopes = alibi_slopes(heads);
    EXPECT_EQ(slopes.scalar_type(), at::kFloat);
    ASSERT_EQ(slopes.sizes(), at::IntArrayRef({heads}));
    for (int64_t h = 0; h < heads; ++h)
      EXPECT_EQ(slopes[h].item<float>(), static_cast<float>(std::exp2(-logs[size_t(h)]))) << heads << " " << h;
  };
  expect(1, {8});
  expect(2, {4, 8});
  expect(3, {4, 8, 2});
  expect(8, {1, 2, 3, 4, 5, 6, 7, 8});
  expect(12, {1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5});
  expect(16, {0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8});
  EXPECT_THAT(refusal([] { alibi_slopes(0); }), HasSubstr("heads must be positive"));
}

MultiheadDilatedAttentionOptions options_of(Positions kind) {
  MultiheadDilatedAttentionOptions o;
  o.embed_dim = 24;
  o.num_heads = 3;
  o.attention.pattern = Pattern::dilated({8, 64}, {1, 2}, {.causal = true});
  o.positions.kind = kind;
  return o;
}

TEST(Alibi, AModuleIsAttentionWithTheSlopesOfItsHeads) {
  MultiheadDilatedAttention with(options_of(Positions::kAlibi)), without(options_of(Positions::kNone));
  EXPECT_TRUE(with->buffers().empty());
  load_weights(*without, weights(*with));  // the same parameters
  const Tensor x = torch::randn({2, 40, 24});
  const auto parts = with->qkv_proj(x).split(24, 2);
  const auto heads = [](const Tensor& t) { return t.unflatten(2, {3, 8}); };
  AttentionOptions call;
  call.alibi_slopes = alibi_slopes(3);
  const Tensor out =
      attention(heads(parts[0]), heads(parts[1]), heads(parts[2]), with->options.attention.pattern, call).out;
  EXPECT_TRUE(at::equal(with(x).first, with->out_proj(out.flatten(2))));
  EXPECT_GT(distance(with(x).first, without(x).first), 1e-3);
}

// Nothing is turned, pair by pair.
TEST(Alibi, HeadsMayHaveAnOddDim) {
  MultiheadDilatedAttentionOptions o = options_of(Positions::kAlibi);
  o.embed_dim = 33;
  EXPECT_NO_THROW(o.validate());
  o.positions.kind = Positions::kRope;
  EXPECT_THAT(refusal([&] { o.validate(); }), HasSubstr("must be even for rope positions, got 11"));
}

// One for each query head, of any sign, in place of the paper's.
TEST(Alibi, SlopesMayBeGiven) {
  MultiheadDilatedAttentionOptions o = options_of(Positions::kAlibi);
  MultiheadDilatedAttention papers(o);
  o.positions.alibi_slopes = {0.5, 0.0, -0.01};
  MultiheadDilatedAttention given(o);
  load_weights(*given, weights(*papers));
  const Tensor x = torch::randn({1, 40, 24});
  EXPECT_GT(distance(given(x).first, papers(x).first), 1e-3);
  const Tensor paper = alibi_slopes(3);
  o.positions.alibi_slopes.assign(paper.data_ptr<float>(), paper.data_ptr<float>() + 3);
  given->options = o;
  EXPECT_TRUE(at::equal(given(x).first, papers(x).first));
  EXPECT_EQ(o.positions.slopes(3, at::kCPU).scalar_type(), at::kFloat);
  o.positions.alibi_slopes.pop_back();
  EXPECT_THAT(refusal([&] { o.validate(); }),
              HasSubstr("alibi_slopes must have one slope for each of num_heads 3, or none, got 2"));
  o.positions.alibi_slopes = {0.5, std::numeric_limits<double>::quiet_NaN(), 1};
  EXPECT_THAT(refusal([&] { o.validate(); }), HasSubstr("alibi_slopes[1] must be finite, got nan"));
  o.positions.alibi_slopes = {0.5, 0.25, 1};
  o.positions.kind = Positions::kRope;
  EXPECT_THAT(refusal([&] { o.validate(); }),
              HasSubstr("alibi_slopes must be empty without positions alibi, got 3 slopes with positions rope"));
}

// What matters is the distance: a shard's own place does not.
TEST(Alibi, Position0ChangesNothing) {
  MultiheadDilatedAttention module(options_of(Positions::kAlibi));
  const Tensor x = torch::randn({1, 40, 24});
  MultiheadCall call;
  call.position0 = 100'000;
  EXPECT_TRUE(at::equal(module(x, call).first, module(x).first));
}

TEST(Alibi, FactorsOfOtherPositionsAreRefused) {
  MultiheadDilatedAttention module(options_of(Positions::kAlibi));
  PositionOptions rope;
  rope.kind = Positions::kRope;
  const RotaryFactors factors = rotary_factors(rope, 0, 40, 8, at::kFloat, at::kCPU);
  MultiheadCall call;
  call.rotary = &factors;
  EXPECT_THAT(refusal([&] { module(torch::randn({1, 40, 24}), call); }), HasSubstr("rotary must be unset"));
  PositionOptions alibi;
  alibi.kind = Positions::kAlibi;
  EXPECT_FALSE(rotary_factors(alibi, 0, 40, 11, at::kFloat, at::kCPU).defined());
}

// From C++ and from Python: its save_model() wrote the folder.
TEST(Alibi, AModelThatPythonSavedComputesTheSame) {
  const at::NoGradGuard no_grad;
  const std::filesystem::path folder = std::filesystem::path(LONGSTRIDE_SAVED_MODELS) / "alibi";
  LongNetLM model = load_model<LongNetLM>(folder);
  EXPECT_EQ(model->config.layer.attention.positions.kind, Positions::kAlibi);
  model->eval();
  const auto then = load_tensors(folder / "run.safetensors").tensors;
  EXPECT_LT(distance(model(then.at("in")), then.at("out")), 1e-5);
  const nn_test::TemporaryFolder made;
  save_model(made.path() / "model", model);
  EXPECT_EQ(load_model<LongNetLM>(made.path() / "model")->config, model->config);
}

}  // namespace
}  // namespace longstride
