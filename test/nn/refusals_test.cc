// What the modules refuse beside odd tensors: sizes that no memory has, sums that wrap, functions and kinds that are
// none. Nothing but longstride::Error comes out.
#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <functional>
#include <limits>
#include <typeinfo>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::refusal;
using nn_test::TemporaryFolder;
using testing::HasSubstr;

MultiheadDilatedAttentionOptions attention_options() {
  return MultiheadDilatedAttentionOptions::from_json(
      R"({"embed_dim": 16, "num_heads": 2, "segment_lengths": [2, 4], "dilation_rates": [1, 2], "positions": "rope"})");
}

class Refusals : public testing::Test {
 protected:
  const TemporaryFolder folder_;
};

TEST_F(Refusals, SizesThatNoMemoryHasAreRefused) {
  constexpr int64_t kHuge = int64_t{1} << 46;
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  PositionOptions rope;
  rope.kind = Positions::kRope;
  const auto factors = [&](int64_t position0, int64_t len, int64_t dim) {
    return [=] { (void)rotary_factors(rope, position0, len, dim, at::kFloat, at::kCPU); };
  };
  MultiheadDilatedAttentionOptions wide = attention_options();
  wide.embed_dim = kHuge;
  LongNetLMConfig model = nn_test::small_config();
  model.vocab = kHuge;
  TransformerLayerOptions layer;
  layer.attention = wide;
  LongNetConfig longnet;
  longnet.layer.dim_feedforward = kHuge;
  const LearnedBlocks blocks{.hidden = kHuge, .head_dim = 8, .kv_heads = 2};
  const MultiheadDilatedAttention attention(attention_options());
  const LongNetLM small(nn_test::small_config());
  const Tensor one = at::zeros({1}), x = at::zeros({1, 1, 16});
  const auto cached = [&](int64_t length, int64_t position0) {
    const at::NoGradGuard no_grad;
    KeyValueCache cache = attention->make_cache(1, 4);
    cache.length = length;
    MultiheadCall call;
    call.cache = &cache;
    call.position0 = position0;
    (void)MultiheadDilatedAttention(attention)->forward(x, call);
  };
  const std::vector<std::pair<std::string, std::function<void()>>> all = {
      {"len x dim must fit into memory, got 70368744177664 x 64", factors(0, kHuge, 64)},
      {"len x dim must fit into memory", factors(0, 1, kMost - 1)},
      {"position0 + len must be below 2^63", factors(kMost, 1, 64)},
      {"batch x capacity must fit into memory", [&] { (void)attention->make_cache(kHuge, 1); }},
      {"batch x capacity must fit into memory", [&] { (void)attention->make_cache(kMost, kMost); }},
      {"batch x capacity must fit into memory", [&] { (void)small->start_decoding(kHuge, 5); }},
      {"embed_dim must fit into memory, got 70368744177664", [&] { MultiheadDilatedAttention{wide}; }},
      {"dim x dim_feedforward must fit", [] { FeedForward(FeedForwardOptions{.dim = kHuge, .hidden = 2}); }},
      {"dim x dim_feedforward must fit", [] { FeedForward(FeedForwardOptions{.dim = kMost, .hidden = kMost}); }},
      {"vocab x dim must fit into memory", [&] { LongNetLM{model}; }},
      {"embed_dim must fit into memory", [&] { TransformerLayer{layer}; }},
      {"dim x dim_feedforward must fit into memory", [&] { LongNet{longnet}; }},
      {"kv_heads x head_dim x hidden must fit into memory", [&] { BlockScorer(blocks, false); }},
      {"tensor 'a' must fit into memory",
       [&] {
         save_tensors(folder_.path() / "a", {{"a", one.expand({kHuge})}});
       }},
      {"tensor 'a' must fit into a file",
       [&] {
         save_tensors(folder_.path() / "a", {{"a", one.expand({kMost})}});
       }},
      {"cache must have room for 1 more rows", [&] { cached(kMost, 0); }},
      {"cache must have room for 1 more rows", [&] { cached(-1, 0); }},
      {"position0 must leave room", [&] { cached(1, kMost); }},
      {"position0 + len must be below 2^63", [&] { cached(0, kMost); }},
  };
  for (size_t n = 0; n < all.size(); ++n) {
    SCOPED_TRACE(testing::Message() << "case " << n << ", " << all[n].first);
    try {
      all[n].second();
      ADD_FAILURE() << "was taken";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr(all[n].first));
    } catch (const std::exception& e) {
      ADD_FAILURE() << typeid(e).name() << ": " << std::string(e.what()).substr(0, 200);
    }
  }
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "a"));
}

TEST_F(Refusals, FunctionsAndKindsThatAreNoneAreRefused) {
  EXPECT_THAT(refusal([] { (void)checkpoint({}, at::ones({1}), {}, false); }), HasSubstr("function must be callable"));
  EXPECT_THAT(refusal([] { (void)checkpoint([](const Tensor& t) { return t; }, Tensor(), {}, false); }),
              HasSubstr("x must be a tensor"));
  EXPECT_THAT(refusal([] { (void)name(static_cast<Positions>(7)); }), HasSubstr("positions must be kNone"));
  EXPECT_THAT(refusal([] { (void)name(static_cast<LongNetForm>(-1)); }), HasSubstr("form must be kEncoder"));
  EXPECT_THAT(refusal([] { (void)rotary_factors({.kind = Positions::kRope}, 0, 1, 8, at::kLong, at::kCPU); }),
              HasSubstr("dtype must be a floating-point type"));
}

// What nothing but its name would make a file that no reader takes.
TEST_F(Refusals, AHeaderThatNoReaderTakesIsNotWritten) {
  const auto path = folder_.path() / "long.safetensors";
  const std::string text = refusal([&] { save_tensors(path, {}, {{"a", std::string(100'000'000, 'x')}}); });
  EXPECT_THAT(text, HasSubstr("must make a header of at most 100000000 bytes"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

// Weights into a module without values would be lost, and out of it there are none.
TEST_F(Refusals, AMetaModuleHasNoWeights) {
  struct One : torch::nn::Module {
    explicit One(at::Device device) { register_parameter("w", at::ones({2}, device)); }
  };
  One full(at::kCPU), empty(at::kMeta);
  EXPECT_THAT(refusal([&] { load_weights(empty, weights(full)); }), HasSubstr("the module's w is a meta tensor"));
  EXPECT_THAT(refusal([&] { load_weights(full, weights(empty)); }), HasSubstr("w is a meta tensor"));
  const auto path = folder_.path() / "meta.safetensors";
  EXPECT_THAT(refusal([&] { save_tensors(path, weights(empty)); }),
              HasSubstr("tensor 'w' must hold values, got a meta tensor"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace longstride
