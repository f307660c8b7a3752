// The constructors of dilated-attention-pytorch: every class, by position and by name, and what they compute.
#include <ATen/Functions.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "longstride/factory.h"
#include "test/factory/oracle_attention.h"
#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::refusal;
using testing::AllOf;
using testing::HasSubstr;
using Longs = std::vector<int64_t>;

// The known library's own algorithm, where it is right: heads cut into one range a group, group g taking rows g mod r
// of every segment, attention within each, and the sum over the groups, of which each row has one, divided by their
// number. q, k, v [batch, len, heads, dim], len a multiple of every segment.
Tensor known_library(const Tensor& q, const Tensor& k, const Tensor& v, const Longs& segments, const Longs& rates,
                     bool causal) {
  Tensor out = at::zeros_like(q);
  const int64_t heads = q.size(2), groups = int64_t(segments.size());
  int64_t first = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t count = heads / groups + (g < heads % groups ? 1 : 0), w = segments[size_t(g)], r = rates[size_t(g)];
    for (int64_t begin = 0; begin < q.size(1); begin += w) {
      const auto part = [&](const Tensor& t) {
        return t.narrow(1, begin, w).slice(1, g % r, w, r).narrow(2, first, count).transpose(1, 2);
      };
      out.narrow(1, begin, w)
          .slice(1, g % r, w, r)
          .narrow(2, first, count)
          .copy_(at::scaled_dot_product_attention(part(q), part(k), part(v), {}, 0.0, causal).transpose(1, 2));
    }
    first += count;
  }
  return out / groups;
}

TEST(Legacy, AttentionIsWhatTheKnownLibraryComputes) {
  const at::NoGradGuard no_grad;
  const Longs segments = {8, 16, 32}, rates = {1, 2, 4};
  const Tensor q = at::randn({2, 64, 7, 8}), k = at::randn({2, 64, 7, 8}), v = at::randn({2, 64, 7, 8});
  for (const bool causal : {false, true}) {
    auto module = from_legacy_attention("DilatedAttention", {{segments, rates}, {{"is_causal", causal}}});
    EXPECT_LT(distance(module(q, k, v).out, known_library(q, k, v, segments, rates, causal)), 1e-5);
  }
}

TEST(Legacy, PositionalOrdersAreThoseOfEachClass) {
  auto attention = from_legacy_attention("DilatedAttention", {{Longs{16, 32}, Longs{1, 2}, 0.5, 0.25}, {}});
  const std::vector<Group> groups = {{16, 1}, {32, 2}};
  EXPECT_EQ(attention->options.pattern.groups(), groups);
  EXPECT_EQ(attention->options.softmax_scale, 0.5);
  EXPECT_EQ(attention->options.attention_dropout, 0.25);
  // Here rates come first.
  auto multihead = from_legacy_multihead("MultiheadDilatedAttention",
                                         {{32, 4, Longs{1, 2}, Longs{16, 32}, 0.1, false, false, 1e-3, 2.0}, {}});
  EXPECT_EQ(multihead->options.attention.pattern.groups(), groups);
  EXPECT_EQ(multihead->options.attention.attention_dropout, 0.1);
  EXPECT_FALSE(multihead->options.bias || multihead->options.sub_layer_norm || multihead->options.fused_qkv);
  EXPECT_EQ(multihead->options.layer_norm_eps, 1e-3);
  EXPECT_EQ(multihead->options.gamma_init, 2.0);
  // And here segments do.
  auto ring = from_legacy_multihead("RingMultiheadDilatedAttention", {{32, 4, Longs{16, 32}, Longs{1, 2}}, {}});
  EXPECT_EQ(ring->options.attention.pattern.groups(), groups);
  EXPECT_TRUE(ring->options.sub_layer_norm && ring->options.bias && ring->options.fused_qkv);
  auto encoder = from_legacy_encoder_layer({{32, 4, Longs{16, 32}, Longs{1, 2}, 64, 0.2, "gelu", 1e-4, 1.5}, {}});
  const TransformerLayerOptions& o = encoder->options;
  EXPECT_EQ(o.attention.embed_dim, 32);
  EXPECT_EQ(o.attention.attention.pattern.groups(), groups);
  EXPECT_EQ(o.dim_feedforward, 64);
  EXPECT_EQ(o.dropout, 0.2);
  EXPECT_EQ(o.attention.attention.attention_dropout, 0.2);
  EXPECT_EQ(o.activation, "gelu");
  EXPECT_EQ(o.attention.layer_norm_eps, 1e-4);
  EXPECT_EQ(o.attention.gamma_init, 1.5);
  auto net = from_legacy_longnet({{32, 4, 2, 3, 48, Longs{8, 16}, Longs{1, 2}, 0.1, "tanh", 1e-4}, {}});
  EXPECT_EQ(net->config.num_encoder_layers, 2);
  EXPECT_EQ(net->config.num_decoder_layers, 3);
  EXPECT_EQ(net->config.layer.dim_feedforward, 48);
  EXPECT_EQ(net->config.layer.attention.attention.pattern.groups(), (std::vector<Group>{{8, 1}, {16, 2}}));
  EXPECT_EQ(net->config.layer.dropout, 0.1);
  EXPECT_EQ(net->config.layer.attention.attention.attention_dropout, 0.1);
  EXPECT_TRUE(net->config.encoder_causal && net->config.decoder_causal && net->config.memory_causal);
}

TEST(Legacy, EveryClassIsBuiltAndRunsByNameAndByPosition) {
  torch::manual_seed(2);
  const Tensor x = at::randn({1, 32, 32}), heads = at::randn({1, 32, 4, 8});
  const NamedOptions groups = {{"segment_lengths", {8, 16}}, {"dilation_rates", {1, 2}}};
  const auto named = [&](NamedOptions more) {
    more.insert(groups.begin(), groups.end());
    return LegacyArguments{{}, more};
  };
  const LegacyArguments plain = named({});
  const LegacyArguments wide = named({{"embed_dim", 32}, {"num_heads", 4}});
  int built = 0;
  for (const std::string& name : legacy_class_names()) {
    SCOPED_TRACE(name);
    ++built;
    if (name == "LongNet") {
      auto net = from_legacy_longnet(
          named({{"d_model", 32}, {"nhead", 4}, {"num_encoder_layers", 1}, {"num_decoder_layers", 1}}));
      EXPECT_EQ(net(x).sizes(), x.sizes());
    } else if (name == "DilatedTransformerEncoderLayer") {
      EXPECT_EQ(from_legacy_encoder_layer(named({{"d_model", 32}, {"nhead", 4}}))(x).sizes(), x.sizes());
    } else if (name == "DilatedTransformerDecoderLayer") {
      auto layer = from_legacy_decoder_layer(named({{"d_model", 32}, {"nhead", 4}, {"tgt_is_causal", true}}));
      EXPECT_TRUE(layer->options.layer.attention.attention.pattern.causal());
      EXPECT_FALSE(layer->options.memory_causal);
      EXPECT_EQ(layer(x, x).sizes(), x.sizes());
    } else if (name.find("Multihead") != std::string::npos || name == "RingDistributedDilatedAttention") {
      LegacyArguments arguments = wide;
      if (name.starts_with("BlockSparse"))
        arguments.keywords["sparse_config"] = OptionValue::json(R"({"block_size": 4, "sparsity_ratio": 0.4})");
      auto module = from_legacy_multihead(name, arguments);
      EXPECT_EQ(module(x).first.sizes(), x.sizes());
    } else {
      LegacyArguments arguments{{Longs{8, 16}, Longs{1, 2}}, {{"causal", true}}};
      if (name == "BlockSparseAdaptive") {
        arguments.keywords["adaptive_config"] = OptionValue::json(R"({"base_sparsity": 0.6})");
        arguments.keywords.merge(NamedOptions{{"num_heads", 4}, {"head_dim", 8}, {"block_size", 4}});
      } else if (name == "BlockSparseHierarchical") {
        arguments.keywords["sparse_config"] = OptionValue::json(R"({"block_size": 4})");
      } else if (name.starts_with("BlockSparse")) {
        arguments.keywords["sparse_config"] = OptionValue::json(R"({"block_size": 4, "sparsity_ratio": 0.4})");
      }
      auto module = from_legacy_attention(name, arguments);
      EXPECT_TRUE(module->options.pattern.causal());
      EXPECT_EQ(module(heads, heads, heads).out.sizes(), heads.sizes());
    }
  }
  EXPECT_EQ(built, 25);
}

TEST(Legacy, BlockSparseRatiosAreSharesThatAreComputed) {
  const auto rule = [](const char* config) {
    auto module = from_legacy_attention("BlockSparseRingDilatedAttention",
                                        {{Longs{64}, Longs{3}, OptionValue::json(config)}, {}});
    EXPECT_TRUE(module->options.pattern.groups().empty());
    EXPECT_EQ(module->options.pattern.blocks().size(), 1U);
    return module->options.pattern.blocks().at(0).rule();
  };
  EXPECT_EQ(std::get<DilatedSparse>(rule("{}")), (DilatedSparse{.rates = {3}, .density = 0.1}));
  EXPECT_EQ(std::get<DilatedSparse>(rule(R"({"sparsity_ratio": 0.25})")).density, 0.25);
  EXPECT_EQ(std::get<LocalWindow>(rule(R"({"pattern_type": "local_window"})")).window, 512);
  EXPECT_EQ(std::get<LocalWindow>(rule(R"({"pattern_type": "local_window", "local_window_size": 64})")).window, 64);
  EXPECT_EQ(std::get<GlobalLocal>(rule(R"({"pattern_type": "global_local", "global_tokens": 16})")),
            (GlobalLocal{512, 16}));
  EXPECT_THAT(refusal([&] { rule(R"({"window_size": 3})"); }), HasSubstr("unknown key of sparse_config 'window_size'"));
  EXPECT_THAT(refusal([&] { rule(R"({"sparsity_ratio": 1.5})"); }), HasSubstr("must be in (0, 1)"));
}

// As its _generate_hierarchical_pattern: strides and windows in whole blocks, floored, at least one.
TEST(Legacy, HierarchyIsThatOfTheKnownLibrary) {
  const auto made = [](const LegacyArguments& arguments) {
    return from_legacy_attention("BlockSparseHierarchical", arguments)->options.pattern.blocks().at(0);
  };
  const Longs w{64}, r{1};
  const BlockPattern standard = made({{w, r}, {}});
  EXPECT_EQ(standard.block_size(), 64);
  EXPECT_EQ(std::get<Hierarchical>(standard.rule()).levels,
            (std::vector<HierarchyLevel>{{64, 256}, {256, 1024}, {1024, std::nullopt}}));
  const OptionValue levels = OptionValue::json(
      R"({"level_configs": [{"stride": 1, "window_size": 50, "block_size": 8}, {"stride": 70, "window_size": -1}]})");
  const BlockPattern own = made({{w, r, levels, OptionValue::json(R"({"block_size": 16})")}, {}});
  EXPECT_EQ(own.block_size(), 16);
  const auto cells = own.active_blocks(16 * 12, false);
  std::vector<std::pair<int64_t, int64_t>> known;
  for (int64_t i = 0; i < 12; ++i) {
    for (int64_t j = 0; j < 12; ++j) {
      // 50 tokens are 3 blocks, 1 to each side; every fourth row (70 / 16) sees everything.
      if (std::abs(i - j) <= 1 || i % 4 == 0) known.emplace_back(i, j);
    }
  }
  EXPECT_EQ(cells, known);
  const auto message = [&](const char* config, const char* sparse = "{}") {
    return refusal([&] { made({{w, r, OptionValue::json(config), OptionValue::json(sparse)}, {}}); });
  };
  EXPECT_THAT(message(R"({"levels": []})"), HasSubstr("unknown key of hierarchical_config 'levels'"));
  EXPECT_THAT(message(R"({"level_configs": [{"stride": 4}]})"), HasSubstr("needs window_size in every level"));
  EXPECT_THAT(message(R"({"level_configs": [{"stride": 0, "window_size": 4}]})"), HasSubstr("stride must be positive"));
  EXPECT_THAT(message(R"({"level_configs": [{"stride": 4, "window_size": -2}]})"),
              HasSubstr("window_size must be positive, got -2"));
  EXPECT_THAT(message(R"({"level_configs": 4})"), HasSubstr("level_configs must be a list"));
  EXPECT_THAT(message("{}", R"({"pattern_type": "local_window"})"), HasSubstr("must be hierarchical"));
  EXPECT_THAT(message("{}", R"({"block_size": 0})"), HasSubstr("block_size must be positive"));
}

TEST(Legacy, AdaptiveIsTheLearnedPattern) {
  const Longs w{64}, r{1};
  const auto made = [&](const char* config) {
    return from_legacy_attention("BlockSparseAdaptive", {{w, r, 3, 16, OptionValue::json(config)}, {}});
  };
  LearnedBlocks expected;
  expected.density = 1 - 0.9;
  expected.hidden = 128;
  expected.kv_heads = 3;
  expected.head_dim = 16;
  EXPECT_EQ(made("{}")->options.learned, expected);
  expected.density = 0.25;
  expected.hidden = 8;
  expected.temperature = 0.5;
  EXPECT_EQ(made(R"({"base_sparsity": 0.75, "hidden_dim": 8, "temperature": 0.5, "num_layers": 2})")->options.learned,
            expected);
  EXPECT_THAT(refusal([&] { made(R"({"num_layers": 3})"); }),
              HasSubstr("num_layers must be its default 2, for it has no counterpart, got 3"));
  EXPECT_THAT(refusal([&] { made(R"({"hard_sparsity": true})"); }), HasSubstr("hard_sparsity must be its default"));
  EXPECT_THAT(refusal([&] { made(R"({"base_sparsity": 1.0})"); }), HasSubstr("must be in (0, 1)"));
  EXPECT_THAT(refusal([&] { made(R"({"sparsity": 0.5})"); }), HasSubstr("unknown key of adaptive_config 'sparsity'"));
  EXPECT_THAT(refusal([&] {
                from_legacy_attention("BlockSparseAdaptive", {{w, r}, {}});
              }),
              HasSubstr("needs num_heads"));
}

TEST(Legacy, RefusesWhatItCannotHonour) {
  const auto attention = [](const LegacyArguments& a) {
    return refusal([&] { from_legacy_attention("DilatedAttention", a); });
  };
  EXPECT_THAT(attention({{}, {}}), HasSubstr("DilatedAttention needs segment_lengths"));
  EXPECT_THAT(attention({{Longs{8}}, {}}), HasSubstr("needs dilation_rates"));
  EXPECT_THAT(
      attention({{Longs{8}, Longs{1}}, {{"segment_length", 1}}}),
      AllOf(HasSubstr("unknown argument of DilatedAttention 'segment_length'"), HasSubstr("'segment_lengths'?")));
  EXPECT_THAT(attention({{Longs{8}, Longs{1}}, {{"dilation_rates", {1}}}}),
              HasSubstr("dilation_rates must be given once"));
  EXPECT_THAT(attention({{Longs{8}, Longs{1}}, {{"causal", true}, {"is_causal", true}}}),
              HasSubstr("must be given once"));
  EXPECT_THAT(attention({std::vector<OptionValue>(9, OptionValue()), {}}),
              HasSubstr("at most 8 positional arguments, got 9"));
  EXPECT_THAT(attention({{Longs{8}, Longs{1}}, {{"enable_profiling", true}}}),
              HasSubstr("enable_profiling must be its default false, for it has no counterpart, got true; "));
  EXPECT_NO_THROW(from_legacy_attention("DilatedAttention",
                                        {{Longs{8}, Longs{1}}, {{"enable_profiling", false}, {"op", OptionValue()}}}));
  EXPECT_THAT(attention({{Longs{8}, Longs{1}}, {{"attention_dropout", 1.0}}}), HasSubstr("must be in [0, 1)"));
  EXPECT_THAT(refusal([] { from_legacy_attention("DilatedAtention", {}); }),
              HasSubstr("did you mean 'DilatedAttention'?"));
  EXPECT_THAT(refusal([] { from_legacy_attention("MultiheadDilatedAttention", {}); }), HasSubstr("unknown class"));
  EXPECT_THAT(refusal([] {
                from_legacy_attention("RingDilatedAttentionV2", {{Longs{8}, Longs{1}}, {{"ring_size", 4}}});
              }),
              AllOf(HasSubstr("ring_size"), HasSubstr("got 4")));
  EXPECT_THAT(refusal([] {
                from_legacy_multihead("MultiheadDilatedAttention", {{32, 1, Longs{1, 2}, Longs{8, 16}}, {}});
              }),
              AllOf(HasSubstr("number of groups 2"), HasSubstr("got 1")));
  auto half = from_legacy_multihead("MultiheadDilatedAttention",
                                    {{32, 4, Longs{1}, Longs{8}}, {{"dtype", "bfloat16"}, {"device", "cpu"}}});
  EXPECT_EQ(half->out_proj->weight.scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace longstride
