// The registry as a value, types by name, auto, and what each of them refuses.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longstride/factory.h"
#include "test/nn/support.h"

namespace longstride {
namespace {

using nn_test::refusal;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

AttentionBuilder some_builder(const std::string& summary) {
  AttentionBuilder b;
  b.summary = summary;
  b.options = {{"w", "8", "tokens"}};
  const auto build = [](const NamedOptions& options) {
    DilatedAttentionOptions o;
    o.pattern = Pattern::dilated({options.contains("w") ? std::get<int64_t>(options.at("w").kept()) : 8}, {1});
    return o;
  };
  b.build = [build](const NamedOptions& options) { return DilatedAttention(build(options)); };
  b.build_multihead = [build](const NamedOptions& options) {
    MultiheadDilatedAttentionOptions o;
    o.embed_dim = 16;
    o.num_heads = 2;
    o.attention = build(options);
    return MultiheadDilatedAttention(o);
  };
  return b;
}

TEST(RegistryTest, IsAValue) {
  Registry mine;
  EXPECT_TRUE(mine.names().empty());
  mine.register_attention("own", some_builder("first"));
  Registry copy = mine;
  copy.register_attention("other", some_builder("second"));
  EXPECT_THAT(mine.names(), ElementsAre("own"));
  EXPECT_THAT(copy.names(), ElementsAre("other", "own"));
  EXPECT_FALSE(builtin_registry().has("own"));
  EXPECT_THAT(builtin_registry().names(),
              ElementsAre("block_sparse", "block_sparse_adaptive", "block_sparse_ring", "block_sparse_ring_distributed",
                          "distributed", "improved", "ring", "standard"));
  EXPECT_EQ(create_dilated_attention("own", {{"w", 5}}, mine)->options.pattern.groups()[0].segment, 5);
  EXPECT_EQ(create_multihead_dilated_attention("own", {}, mine)->options.embed_dim, 16);
  EXPECT_THAT(refusal([&] {
                create_dilated_attention("own", {{"v", 5}}, mine);
              }),
              HasSubstr("unknown option of type own 'v'; one of [w]; did you mean 'w'?"));
}

TEST(RegistryTest, ANameIsTakenOnceUnlessAsked) {
  Registry registry;
  registry.register_attention("own", some_builder("first"));
  EXPECT_THAT(refusal([&] { registry.register_attention("own", some_builder("second")); }),
              AllOf(HasSubstr("must not be registered twice, got 'own'"), HasSubstr("replace")));
  EXPECT_EQ(registry.at("own").summary, "first");
  registry.register_attention("own", some_builder("second"), true);
  EXPECT_EQ(registry.at("own").summary, "second");
  EXPECT_THAT(refusal([&] { registry.register_attention("auto", some_builder("x")); }), HasSubstr("\"auto\""));
  EXPECT_THAT(refusal([&] { registry.register_attention("", some_builder("x")); }), HasSubstr("must be a word"));
  EXPECT_THAT(refusal([&] { registry.register_attention("half", {}); }), HasSubstr("must have build"));
  registry.register_attention("ring", some_builder("mine"));
  EXPECT_THAT(refusal([&] { register_builtin(registry); }), HasSubstr("got 'ring'"));
  EXPECT_THAT(registry.names(), ElementsAre("own", "ring"));
  Registry twice = builtin_registry();
  EXPECT_THAT(refusal([&] { register_builtin(twice); }), HasSubstr("registered twice"));
}

TEST(Create, UnknownTypesAreNamedWithTheNearest) {
  EXPECT_THAT(
      refusal([] { create_dilated_attention("standart"); }),
      AllOf(HasSubstr("unknown attention type 'standart'; one of [auto, "), HasSubstr("did you mean 'standard'?")));
  EXPECT_THAT(refusal([] { create_multihead_dilated_attention("block_spars"); }),
              HasSubstr("did you mean 'block_sparse'?"));
}

TEST(Create, AutoSaysWhatItChoseAndWhy) {
  const auto plain = create_dilated_attention();
  EXPECT_EQ(plain.type, "standard");
  EXPECT_THAT(plain.reason,
              AllOf(HasSubstr("dilated groups"), HasSubstr("one rank"), HasSubstr("device cpu: engine cpu")));
  EXPECT_EQ(plain->options.pattern, Pattern::dilated({2048, 4096, 8192}, {1, 2, 4}));
  EXPECT_EQ(choose_attention({{"group", "none"}}).type, "ring");
  EXPECT_EQ(choose_attention({{"world_size", 1}}).type, "distributed");
  const Choice sparse = choose_attention({{"pattern", "axial"}});
  EXPECT_EQ(sparse.type, "block_sparse");
  EXPECT_THAT(sparse.reason, HasSubstr("a block pattern is asked for (pattern)"));
  EXPECT_EQ(choose_attention({{"density", 0.5}, {"ring_size", 1}}).type, "block_sparse_ring");
  EXPECT_EQ(choose_attention({{"density", 0.5}, {"rank", 0}}).type, "block_sparse_ring_distributed");
  const auto multihead = create_multihead_dilated_attention("auto", {{"embed_dim", 32}, {"num_heads", 4}});
  EXPECT_EQ(multihead.type, "standard");
  EXPECT_EQ(create_dilated_attention("improved").reason, "asked for by name");
  EXPECT_THAT(refusal([] { create_dilated_attention("auto", {{"casual", true}}); }), HasSubstr("'causal'?"));
  EXPECT_THAT(refusal([] {
                create_multihead_dilated_attention("auto", {{"device", "gpu"}});
              }),
              HasSubstr("device must be"));
  // No machine has a device of this number.
  for (const char* device : {"meta", "cuda:99", "xla"}) {
    EXPECT_THAT(refusal([&] {
                  create_multihead_dilated_attention("standard", {{"device", device}});
                }),
                HasSubstr("device must be one that this torch and machine have"));
  }
  EXPECT_THAT(refusal([] {
                create_multihead_dilated_attention("standard", {{"dtype", "float23"}});
              }),
              HasSubstr("unknown dtype 'float23'; one of [float32, float64, bfloat16, float16]"));
}

TEST(Create, BlockSparseByItsOwnName) {
  const auto made = create_block_sparse_attention({{"embed_dim", 32}, {"num_heads", 4}});
  EXPECT_EQ(made.type, "block_sparse");
  ASSERT_EQ(made->options.attention.pattern.blocks().size(), 1U);
  EXPECT_STREQ(made->options.attention.pattern.blocks()[0].name(), "dilated_sparse");
  EXPECT_TRUE(made->options.attention.pattern.groups().empty());
  const auto strided = create_block_sparse_attention({{"embed_dim", 32}, {"num_heads", 4}, {"pattern", "strided"}});
  EXPECT_STREQ(strided->options.attention.pattern.blocks()[0].name(), "strided");
}

TEST(Create, AdaptiveByItsOwnName) {
  const NamedOptions options = {
      {"embed_dim", 32}, {"num_heads", 4}, {"kv_heads", 2}, {"sparsity_ratio", 0.5}, {"max_sparsity_ratio", 0.75},
      {"block_size", 4}};
  const auto made = create_adaptive_sparse_attention(options);
  EXPECT_EQ(made.type, "block_sparse_adaptive");
  const LearnedBlocks expected = {.block_size = 4, .density = 0.5, .min_density = 0.25};
  EXPECT_EQ(made->options.attention.learned, expected);
  EXPECT_EQ(made->attention->scorer->options.head_dim, 8);
  EXPECT_EQ(made->attention->scorer->options.kv_heads, 2);
  EXPECT_TRUE(made->options.attention.pattern.groups().empty());
  EXPECT_EQ(create_adaptive_sparse_attention({})->options.attention.learned->density, 1 - 0.9);
  const auto message = [](const NamedOptions& more) {
    return refusal([&] { create_adaptive_sparse_attention(more); });
  };
  EXPECT_THAT(message({{"min_sparsity_ratio", 0.95}, {"max_sparsity_ratio", 0.9}}), HasSubstr("must be below"));
  EXPECT_THAT(message({{"max_sparsity_ratio", 1.0}}), HasSubstr("max_sparsity_ratio must be in (0, 1), got 1"));
  EXPECT_THAT(message({{"pattern", "axial"}}), HasSubstr("unknown option of type block_sparse_adaptive 'pattern'"));
  EXPECT_THAT(message({{"min_sparsity", 0.5}}), HasSubstr("did you mean 'min_sparsity_ratio'?"));
  // The same pattern, by the options of another type.
  const auto learned = create_dilated_attention(
      "block_sparse", {{"pattern", "learned"}, {"head_dim", 16}, {"kv_heads", 3}, {"sparsity_ratio", 0.5}});
  EXPECT_EQ(learned->options.learned->head_dim, 16);
  EXPECT_EQ(learned->options.learned->kv_heads, 3);
  EXPECT_THAT(refusal([] {
                create_dilated_attention("block_sparse", {{"pattern", "axial"}, {"head_dim", 16}});
              }),
              HasSubstr("head_dim and kv_heads must be unset without learned blocks"));
}

// SYSTEMS: what bad input gets, through the factory. Nothing is built, and a registry stays what it was.
TEST(Create, RefusesBadValuesBeforeAnythingIsBuilt) {
  const auto message = [](const NamedOptions& options) {
    // As text: a NaN differs from itself.
    const auto texts = [&] {
      std::map<std::string, std::string> all;
      for (const auto& [name, value] : options) all[name] = value.text();
      return all;
    };
    const auto before = texts();
    const std::string text = refusal([&] { create_multihead_dilated_attention("standard", options); });
    EXPECT_EQ(texts(), before);
    return text;
  };
  const auto groups = [](std::vector<int64_t> segments, std::vector<int64_t> rates) {
    return NamedOptions{{"segment_lengths", std::move(segments)}, {"dilation_rates", std::move(rates)}};
  };
  EXPECT_THAT(message(groups({}, {})), HasSubstr("segment_lengths cannot be empty"));
  EXPECT_THAT(message(groups({1, 2}, {1})), HasSubstr("must have the same length: 2 != 1"));
  EXPECT_THAT(message(groups({4, -1}, {1, 1})), HasSubstr("segment_lengths[1] must be positive, got -1"));
  EXPECT_THAT(message(groups({4, 8}, {0, 1})), HasSubstr("dilation_rates[0] must be positive, got 0"));
  EXPECT_THAT(message({{"attention_dropout", 1.0}}), HasSubstr("attention_dropout must be in [0, 1), got 1"));
  EXPECT_THAT(message({{"attention_dropout", NAN}}), HasSubstr("attention_dropout must be in [0, 1), got nan"));
  EXPECT_THAT(message({{"softmax_scale", NAN}}), HasSubstr("softmax_scale must be finite"));
  EXPECT_THAT(message({{"embed_dim", 0}}), HasSubstr("embed_dim must be positive, got 0"));
  EXPECT_THAT(message({{"num_heads", -4}}), HasSubstr("num_heads must be positive, got -4"));
  EXPECT_THAT(message({{"embed_dim", 100}}), HasSubstr("embed_dim must be a multiple of num_heads 12, got 100"));
  EXPECT_THAT(message({{"layer_norm_eps", 0}}), HasSubstr("layer_norm_eps must be positive"));
  EXPECT_THAT(message({{"gamma_init", -1.0}}), HasSubstr("gamma_init must be positive"));
  EXPECT_THAT(message({{"mixing", "head_partition"}, {"kv_heads", 1}}),
              AllOf(HasSubstr("groups 3"), HasSubstr("got 1")));
  EXPECT_THAT(message({{"head_offset", "blok"}}), HasSubstr("did you mean 'block'?"));
  EXPECT_THAT(message({{"segment_lengths", "8"}, {"dilation_rates", {1}}}), HasSubstr("must be a list of integers"));
  EXPECT_THAT(refusal([] {
                create_dilated_attention("block_sparse", {{"pattern", "axial"}, {"mixing", "head_partition"}});
              }),
              HasSubstr("without dilated groups"));
  EXPECT_THAT(refusal([] {
                create_dilated_attention("ring", {{"ring_size", 0}});
              }),
              HasSubstr("must be positive, got 0"));
  EXPECT_THAT(refusal([] {
                create_dilated_attention("ring", {{"ring_size", 2}});
              }),
              AllOf(HasSubstr("the 1 ranks"), HasSubstr("got 2")));
  EXPECT_THAT(refusal([] {
                create_dilated_attention("distributed", {{"backend", "gloo"}});
              }),
              HasSubstr("backend must be unset without a process group"));
}

}  // namespace
}  // namespace longstride
