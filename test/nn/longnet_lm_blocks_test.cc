// LongNetLM with block patterns: the formula under the mask, prefixes and decoding under every rule that it takes, and
// the rules that it refuses because they change as a sequence grows.
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
using nn_test::small_config;
using testing::AllOf;
using testing::HasSubstr;

LongNetLMConfig block_config(std::vector<BlockPattern> blocks) {
  LongNetLMConfig config = small_config();
  config.layer.attention.attention.pattern = Pattern::block_sparse(blocks, true);
  return config;
}

LongNetLM make_double(const LongNetLMConfig& config, AttentionFn attend = {}) {
  LongNetLM model(config, std::move(attend));
  model->to(at::kDouble);
  model->eval();
  return model;
}

struct Case {
  const char* name;
  LongNetLMConfig config;
};

// Every rule in the form that stays as a sequence grows, alone, united, and beside groups.
std::vector<Case> cases() {
  const BlockPattern local(8, LocalWindow{.window = 16});
  std::vector<Case> all = {
      {"local_window", block_config({local})},
      {"dilated_sparse", block_config({{8, DilatedSparse{.rates = {1, 3}, .reach = 2}}})},
      {"global_local", block_config({{8, GlobalLocal{.window = 8, .global_tokens = 9}}})},
      {"strided", block_config({{8, Strided{.stride_blocks = 3}}})},
      {"axial", block_config({{8, Axial{.grid_columns = 3}}})},
      {"random", block_config({{8, RandomBlocks{.density = 0.6, .seed = 5}}})},
      {"hierarchical", block_config({{8, Hierarchical{{{8, 16}, {32, std::nullopt}}}}})},
      {"sliding_window", block_config({{1, SlidingWindow{.left = 11, .sink_tokens = 3}}})},
      {"window and blocks", block_config({{1, SlidingWindow{.left = 5}}, {8, Strided{.stride_blocks = 3}}})},
      {"hybrid", block_config({local, {16, RandomBlocks{.density = 0.7, .seed = 2}}})},
  };
  LongNetLMConfig beside_groups = small_config();
  Pattern& both = beside_groups.layer.attention.attention.pattern;
  const Pattern groups = both;
  both = groups.with_blocks({local});
  all.push_back({"beside groups", beside_groups});
  both = groups.with_blocks({{1, SlidingWindow{.left = 9, .sink_tokens = 2}}});
  all.push_back({"window beside groups", beside_groups});
  return all;
}

TEST(LongNetLMBlocks, EqualsTheFormulaUnderTheMask) {
  const at::NoGradGuard no_grad;
  const auto config = block_config({{8, LocalWindow{.window = 16}}, {8, Strided{.stride_blocks = 3}}});
  // half(16) = 1 block on each side; so both rules have abs(i - j) <= 1.
  const AttentionFn masked = [](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions&) {
    const int64_t len = q.size(1);
    Tensor seen = at::zeros({len, len}, at::kBool);
    for (int64_t a = 0; a < len; ++a) {
      for (int64_t b = 0; b <= a; ++b) seen[a][b] = a / 8 - b / 8 <= 1 || b / 8 % 3 == 0;
    }
    const auto heads = [&](const Tensor& t) { return t.repeat_interleave(q.size(2) / t.size(2), 2).transpose(1, 2); };
    const Tensor logits = at::matmul(heads(q), heads(k).transpose(2, 3)) / std::sqrt(double(q.size(3)));
    const Tensor p = logits.masked_fill(seen.logical_not(), -HUGE_VAL).softmax(3);
    return AttentionResult{at::matmul(p, heads(v)).transpose(1, 2).contiguous(), {}};
  };
  LongNetLM ours = make_double(config), theirs = make_double(config, masked);
  load_weights(*theirs, weights(*ours));
  const Tensor tokens = random_tokens(2, 77, config.vocab, 1);
  EXPECT_LT(distance(ours(tokens), theirs(tokens)), 1e-9);
}

TEST(LongNetLMBlocks, APrefixNeverDependsOnWhatFollowsNorOnHowMuch) {
  const at::NoGradGuard no_grad;
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name);
    auto model = make_double(one.config);
    const Tensor tokens = random_tokens(1, 90, one.config.vocab, 2);
    const Tensor logits = model(tokens);
    for (const int64_t p : {1, 8, 23, 64, 89}) {
      EXPECT_LT(distance(model(tokens.narrow(1, 0, p)), logits.narrow(1, 0, p)), 1e-10) << p;
    }
  }
}

TEST(LongNetLMBlocks, DecodingEqualsRecomputing) {
  const at::NoGradGuard no_grad;
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name);
    auto model = make_double(one.config);
    const Tensor tokens = random_tokens(2, 70, one.config.vocab, 3);
    const Tensor all = model(tokens);
    DecodeState state = model->start_decoding(2, 70);
    int64_t at = 0;
    for (const int64_t n : {1, 6, 30, 1, 1, 23, 8}) {
      const Tensor logits = model->decode(tokens.narrow(1, at, n), state);
      at += n;
      EXPECT_LT(distance(logits, all.select(1, at - 1)), 1e-10) << at;
    }
  }
}

// A density that the first few blocks cannot have is that of the sequence they grow into: a prompt of any length is
// taken, and a prompt and what follows it give what the whole gives.
TEST(LongNetLMBlocks, PromptsOfEveryLengthHoldADensityAgainstNothing) {
  const at::NoGradGuard no_grad;
  const nn_test::OneThread one_thread;
  constexpr int64_t kLongest = 200;
  for (const double density : {0.02, 0.2, 0.6}) {
    auto config = block_config({{16, RandomBlocks{.density = density, .seed = 5}}});
    config.layers = 1;
    auto model = make_double(config);
    const Tensor tokens = random_tokens(1, kLongest + 1, config.vocab, 6);
    const Tensor all = model(tokens);
    for (int64_t len = 1; len <= kLongest; ++len) {
      SCOPED_TRACE(testing::Message() << "density " << density << ", len " << len);
      EXPECT_LT(distance(model(tokens.narrow(1, 0, len)), all.narrow(1, 0, len)), 1e-10);
      DecodeState state = model->start_decoding(1, len + 1);
      EXPECT_LT(distance(model->decode(tokens.narrow(1, 0, len), state), all.select(1, len - 1)), 1e-10);
      EXPECT_LT(distance(model->decode(tokens.narrow(1, len, 1), state), all.select(1, len)), 1e-10);
    }
  }
}

TEST(LongNetLMBlocks, RulesThatChangeAsASequenceGrowsAreRefused) {
  const auto message = [](const BlockPattern& block) { return refusal([&] { LongNetLM{block_config({block})}; }); };
  EXPECT_THAT(message({8, LocalWindow{.density = 0.5}}), AllOf(HasSubstr("blocks must be the same for a prefix"),
                                                               HasSubstr("local_window"), HasSubstr("give window")));
  EXPECT_THAT(message({8, DilatedSparse{.density = 0.5}}), AllOf(HasSubstr("dilated_sparse"), HasSubstr("give reach")));
  EXPECT_THAT(message({8, Axial{}}), AllOf(HasSubstr("axial"), HasSubstr("give grid_columns")));
  EXPECT_THAT(message({8, BlockList{{{-1, -1, 0, 0}}}}), AllOf(HasSubstr("got list"), HasSubstr("give a rule")));
  // They do change: what is refused is the rule and not a scruple.
  for (const BlockPattern& block : {BlockPattern(8, LocalWindow{.density = 0.5}),
                                    BlockPattern(8, DilatedSparse{.density = 0.5}), BlockPattern(8, Axial{})}) {
    const auto shorter = block.active_blocks(8 * 8, true), longer = block.active_blocks(8 * 20, true);
    EXPECT_FALSE(std::equal(shorter.begin(), shorter.end(), longer.begin())) << block.name();
  }
  for (const Case& one : cases()) {
    for (const BlockPattern& block : one.config.layer.attention.attention.pattern.blocks()) {
      const auto shorter = block.active_blocks(8 * 8, true), longer = block.active_blocks(8 * 20, true);
      EXPECT_TRUE(std::equal(shorter.begin(), shorter.end(), longer.begin())) << one.name;
    }
  }
}

TEST(LongNetLMBlocks, JsonAndSavedModels) {
  const at::NoGradGuard no_grad;
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name);
    EXPECT_EQ(LongNetLMConfig::from_json(one.config.to_json()), one.config);
    const nn_test::TemporaryFolder folder;
    LongNetLM model(one.config);
    save_model(folder.path() / "model", model);
    LongNetLM again = load_model<LongNetLM>(folder.path() / "model");
    EXPECT_EQ(again->config, one.config);
    const Tensor tokens = random_tokens(1, 40, one.config.vocab, 4);
    EXPECT_TRUE(at::equal(model(tokens), again(tokens)));
  }
  EXPECT_THAT(
      refusal([] { LongNetLMConfig::from_json(R"({"blocks": [{"pattern": "lokal_window", "block_size": 8}]})"); }),
      HasSubstr("did you mean 'local_window'"));
  EXPECT_THAT(refusal([] { LongNetLMConfig::from_json(R"({"segment_lengths": [], "dilation_rates": []})"); }),
              HasSubstr("cannot be empty"));
}

}  // namespace
}  // namespace longstride
