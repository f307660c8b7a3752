// Generation: equal to recomputing every step from scratch, its options, its refusals.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::random_tokens;
using nn_test::refusal;
using nn_test::small_config;
using testing::AllOf;
using testing::HasSubstr;

// Every step from scratch, with the uniform numbers that generate() draws.
Tensor generate_from_scratch(LongNetLM& model, Tensor tokens, const GenerateOptions& o) {
  const at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(o.seed.value_or(0));
  const int64_t len = tokens.size(1);
  for (int64_t i = 0; i < o.max_tokens; ++i) {
    const Tensor logits = model(tokens).select(1, tokens.size(1) - 1);
    const Tensor uniform = o.temperature > 0 ? at::rand({tokens.size(0)}, generator, at::kDouble)
                                             : at::zeros({tokens.size(0)}, at::kDouble);
    std::vector<int64_t> next;
    for (int64_t b = 0; b < tokens.size(0); ++b) next.push_back(sample_token(logits[b], o, uniform[b].item<double>()));
    tokens = at::cat({tokens, at::tensor(next, at::kLong).unsqueeze(1)}, 1);
  }
  return tokens.narrow(1, len, o.max_tokens);
}

TEST(Generate, EqualsRecomputingTokenForToken) {
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    LongNetLM model(small_config());
    model->to(dtype);
    model->eval();
    const Tensor prompt = random_tokens(2, 19, 31, 12);
    GenerateOptions o;
    o.max_tokens = 60;
    o.prefill_tokens = 8;
    o.temperature = 0;
    EXPECT_TRUE(at::equal(generate(model, prompt, o), generate_from_scratch(model, prompt, o)));
    o.temperature = 0.8;
    o.seed = 42;
    o.top_k = 12;
    o.top_p = 0.9;
    const Tensor drawn = generate(model, prompt, o);
    EXPECT_TRUE(at::equal(drawn, generate_from_scratch(model, prompt, o)));
    EXPECT_TRUE(at::equal(drawn, generate(model, prompt, o)));
    o.seed = 43;
    EXPECT_FALSE(at::equal(drawn, generate(model, prompt, o)));
  }
}

TEST(Generate, StopsAndReports) {
  LongNetLM model(small_config());
  model->eval();
  const Tensor prompt = random_tokens(1, 5, 31, 13);
  GenerateOptions o;
  o.max_tokens = 30;
  o.seed = 1;
  const Tensor all = generate(model, prompt, o);
  ASSERT_EQ(all.sizes(), (std::vector<int64_t>{1, 30}));
  o.stop_token = all[0][9].item<int64_t>();
  const Tensor cut = generate(model, prompt, o);
  ASSERT_LE(cut.size(1), 10);
  EXPECT_TRUE(at::equal(cut, all.narrow(1, 0, cut.size(1))));
  EXPECT_EQ(cut[0][-1].item<int64_t>(), *o.stop_token);
  o.stop_token.reset();
  std::vector<int64_t> seen;
  generate(model, prompt, o, [&](const std::vector<int64_t>& row) {
    seen.push_back(row.at(0));
    return seen.size() < 4;
  });
  EXPECT_TRUE(at::equal(at::tensor(seen, at::kLong), all[0].narrow(0, 0, 4)));
}

TEST(Generate, SamplingFollowsItsOptions) {
  const Tensor logits = at::log(at::tensor({0.1, 0.4, 0.2, 0.3}, at::kDouble));
  GenerateOptions o;
  const auto interval = [&](int64_t token, double low, double high) {
    EXPECT_EQ(sample_token(logits, o, low + 1e-9), token);
    EXPECT_EQ(sample_token(logits, o, high - 1e-9), token);
  };
  interval(0, 0, 0.1);
  interval(1, 0.1, 0.5);
  interval(2, 0.5, 0.7);
  interval(3, 0.7, 1);
  o.top_k = 2;
  interval(1, 0, 4.0 / 7);
  interval(3, 4.0 / 7, 1);
  o.top_k = 0;
  o.top_p = 0.75;
  interval(1, 0, 4.0 / 9);
  interval(2, 4.0 / 9, 6.0 / 9);
  interval(3, 6.0 / 9, 1);
  o.top_p = 1e-9;
  interval(1, 0, 1);
  o.top_p = 1;
  o.temperature = 0.5;
  interval(0, 0, 0.01 / 0.3);
  o.temperature = 0;
  EXPECT_EQ(sample_token(at::tensor({1.0, 3.0, 3.0}, at::kDouble), o, 0), 1);
  EXPECT_THAT(refusal([&] { sample_token(at::tensor({1.0, double(NAN)}, at::kDouble), o, 0); }), HasSubstr("NaN"));
}

TEST(Generate, Refusals) {
  LongNetLM model(small_config());
  const Tensor prompt = random_tokens(1, 5, 31, 13);
  EXPECT_THAT(refusal([&] { generate(model, prompt); }), HasSubstr("eval()"));
  model->eval();
  const auto message = [&](const std::function<void(GenerateOptions&)>& change) {
    GenerateOptions o;
    change(o);
    return refusal([&] { generate(model, prompt, o); });
  };
  EXPECT_THAT(message([](auto& o) { o.max_tokens = 0; }), HasSubstr("max_tokens must be positive"));
  EXPECT_THAT(message([](auto& o) { o.max_tokens = 508; }), AllOf(HasSubstr("max_len 512"), HasSubstr("5 + 508")));
  EXPECT_THAT(message([](auto& o) { o.temperature = -1; }), HasSubstr("temperature"));
  EXPECT_THAT(message([](auto& o) { o.top_k = -1; }), HasSubstr("top_k"));
  EXPECT_THAT(message([](auto& o) { o.top_p = 0; }), HasSubstr("top_p must be in (0, 1]"));
  EXPECT_THAT(message([](auto& o) { o.stop_token = 31; }), HasSubstr("stop_token must be in [0, 31)"));
  EXPECT_THAT(message([](auto& o) { o.prefill_tokens = 0; }), HasSubstr("prefill_tokens"));
  EXPECT_THAT(refusal([&] { generate(model, prompt.narrow(1, 0, 0)); }), HasSubstr("len >= 1"));
}

}  // namespace
}  // namespace longstride
