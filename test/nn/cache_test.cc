// Caches that drop what no later query sees: the numbers of recomputing, in few rows.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::random_tokens;
using nn_test::refusal;
using testing::HasSubstr;

LongNetLMConfig config_of(const Pattern& pattern) {
  LongNetLMConfig config;
  config.vocab = 31;
  config.layers = 2;
  config.layer.attention.embed_dim = 32;
  config.layer.attention.num_heads = 4;
  config.layer.attention.kv_heads = 2;
  config.layer.attention.attention.pattern = pattern;
  config.layer.attention.positions.max_len = 1 << 14;
  return config;
}

LongNetLM double_model(const LongNetLMConfig& config, AttentionFn attend = {}) {
  LongNetLM model(config, std::move(attend));
  model->to(at::kDouble);
  model->eval();
  return model;
}

Pattern windows(const std::vector<BlockPattern>& blocks) { return Pattern::block_sparse(blocks, true); }

const BlockPattern kWindow(1, SlidingWindow{.left = 64, .sink_tokens = 4});

int64_t most_rows(const DecodeState& state) {
  int64_t most = 0;
  for (const KeyValueCache& cache : state.layers) most = std::max({most, cache.k.size(1), cache.v.size(1)});
  return most;
}

TEST(Caches, FiveThousandTokensInFewRows) {
  const at::NoGradGuard no_grad;
  const nn_test::OneThread one_thread;
  constexpr int64_t kLen = 5000;
  auto config = config_of(windows({kWindow}));
  config.layer.attention.sinks = true;
  LongNetLM model = double_model(config);
  for (const auto& layer : *model->layers) layer->as<TransformerLayer>()->attention->sinks.normal_();
  const Tensor tokens = random_tokens(2, kLen, config.vocab, 1);
  const Tensor all = model(tokens);
  DecodeState state = model->start_decoding(2, kLen);
  int64_t rows = 0;
  for (int64_t i = 0; i < kLen; ++i) {
    const Tensor logits = model->decode(tokens.narrow(1, i, 1), state);
    ASSERT_LT(distance(logits, all.select(1, i)), 1e-9) << i;
    rows = std::max(rows, most_rows(state));
  }
  EXPECT_LT(rows, 300);
  EXPECT_EQ(state.layers[1].length, kLen);
  EXPECT_GT(state.layers[1].dropped, kLen - 300);
  EXPECT_EQ(state.layers[1].capacity, kLen);
}

// Of chunks of many sizes; `most` rows are left when one token comes alone.
void expect_recomputed(const LongNetLMConfig& config, int64_t most) {
  constexpr int64_t kLen = 1200;
  LongNetLM model = double_model(config);
  const Tensor tokens = random_tokens(2, kLen, config.vocab, 2);
  const Tensor all = model(tokens);
  DecodeState state = model->start_decoding(2, kLen);
  int64_t at = 0;
  for (int64_t round = 0; at < kLen; ++round) {
    const int64_t n = std::min<int64_t>(kLen - at, std::vector<int64_t>{1, 7, 300, 1, 64, 1, 1, 2, 33}[round % 9]);
    const Tensor logits = model->decode(tokens.narrow(1, at, n), state);
    at += n;
    ASSERT_LT(distance(logits, all.select(1, at - 1)), 1e-9) << at;
    EXPECT_EQ(state.layers[0].length, at);
    if (n == 1) {
      EXPECT_LE(most_rows(state), most) << at;
    }
  }
  EXPECT_LE(state.layers[0].length - state.layers[0].dropped, most);
  EXPECT_LE(most_rows(state), most);
}

TEST(Caches, WindowsUnionsBlocksAndSegmentsEqualRecomputing) {
  const at::NoGradGuard no_grad;
  const nn_test::OneThread one_thread;
  const BlockPattern local(8, LocalWindow{.window = 50}), plain(1, SlidingWindow{.left = 20});
  const BlockPattern global(8, GlobalLocal{.window = 16, .global_tokens = 9});
  const Pattern segments = Pattern::dilated({16, 64}, {1, 4}, {.causal = true});
  expect_recomputed(config_of(windows({kWindow})), 200);
  expect_recomputed(config_of(windows({plain, kWindow})), 200);
  expect_recomputed(config_of(windows({local})), 200);
  expect_recomputed(config_of(windows({global, plain})), 200);
  expect_recomputed(config_of(segments), 250);
  expect_recomputed(config_of(segments.with_blocks({kWindow})), 250);
  // All stay.
  expect_recomputed(config_of(segments.with_blocks({{8, Strided{.stride_blocks = 3}}})), 1200);
}

TEST(Caches, Positions) {
  const at::NoGradGuard no_grad;
  const nn_test::OneThread one_thread;
  auto config = config_of(windows({kWindow}));
  for (const Positions kind : {Positions::kNone, Positions::kXpos}) {
    config.layer.attention.positions.kind = kind;
    expect_recomputed(config, 200);
  }
  // ALiBi counts how far the sinks are away: with them all keys stay.
  config.layer.attention.positions.kind = Positions::kAlibi;
  expect_recomputed(config, 1200);
  EXPECT_EQ(most_rows(LongNetLM(config)->start_decoding(1, 1200)), 1200);
  config.layer.attention.attention.pattern = windows({{1, SlidingWindow{.left = 64}}});
  expect_recomputed(config, 200);
}

TEST(Caches, OfAFunctionOfTheCallersKeepAll) {
  const at::NoGradGuard no_grad;
  const auto config = config_of(windows({kWindow}));
  const Pattern dense = Pattern::dilated({1 << 14}, {1}, {.causal = true});
  LongNetLM model = double_model(config, local_attention(dense));
  const Tensor tokens = random_tokens(1, 400, config.vocab, 3);
  DecodeState state = model->start_decoding(1, 400);
  model->decode(tokens.narrow(1, 0, 399), state);
  EXPECT_LT(distance(model->decode(tokens.narrow(1, 399, 1), state), model(tokens).select(1, 399)), 1e-9);
  EXPECT_EQ(state.layers[0].dropped, 0);
}

// A copy of a state goes on by itself, as one of several beams does, and a clone of the model drops as well.
TEST(Caches, CopiesStayAndStepsCanBeTakenBack) {
  const at::NoGradGuard no_grad;
  const nn_test::OneThread one_thread;
  const auto config = config_of(windows({kWindow}));
  const auto made = std::dynamic_pointer_cast<LongNetLMImpl>(double_model(config)->clone());
  LongNetLM model(made);
  const Tensor tokens = random_tokens(1, 600, config.vocab, 4), others = random_tokens(1, 600, config.vocab, 5);
  DecodeState state = model->start_decoding(1, 600);
  for (int64_t i = 0; i < 300; ++i) model->decode(tokens.narrow(1, i, 1), state);
  DecodeState copy = state;
  for (KeyValueCache& cache : copy.layers) {
    cache.k = cache.k.clone();
    cache.v = cache.v.clone();
  }
  const DecodeState shared = state;
  for (int64_t i = 300; i < 600; ++i) model->decode(tokens.narrow(1, i, 1), state);
  Tensor logits;
  for (int64_t i = 300; i < 600; ++i) logits = model->decode(others.narrow(1, i, 1), copy);
  const Tensor branch = at::cat({tokens.narrow(1, 0, 300), others.narrow(1, 300, 300)}, 1);
  EXPECT_LT(distance(logits, model(branch).select(1, 599)), 1e-9);
  EXPECT_LT(most_rows(copy), 200);
  // What was held before the rows moved is where it was.
  state = shared;
  EXPECT_LT(distance(model->decode(tokens.narrow(1, 300, 1), state), model(tokens.narrow(1, 0, 301)).select(1, 300)),
            1e-9);
  // A step back, and too many.
  state.length = 300;
  EXPECT_LT(distance(model->decode(others.narrow(1, 300, 1), state), model(branch.narrow(1, 0, 301)).select(1, 300)),
            1e-9);
  state.length = 100;
  EXPECT_THAT(refusal([&] { model->decode(tokens.narrow(1, 100, 1), state); }),
              HasSubstr("cache must hold what positions from its length 100 on see"));
}

TEST(Caches, ATypeOfItsOwn) {
  const at::NoGradGuard no_grad;
  LongNetLM model(config_of(windows({kWindow})));
  model->to(at::kBFloat16);
  model->eval();
  const Tensor tokens = random_tokens(1, 400, 31, 6);
  DecodeState state = model->start_decoding(1, 400);
  for (int64_t i = 0; i < 400; ++i) model->decode(tokens.narrow(1, i, 1), state);
  EXPECT_EQ(state.layers[0].k.scalar_type(), at::kBFloat16);
  EXPECT_LT(most_rows(state), 200);
}

}  // namespace
}  // namespace longstride
