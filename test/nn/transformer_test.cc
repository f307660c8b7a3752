// MultiheadDilatedAttention and the transformer layers against the formulas of dense_layers.h, forward and gradients;
// their options, initialisation and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "test/nn/dense_layers.h"

namespace longstride {
namespace {

using at::Tensor;
using nn_test::distance;
using nn_test::expect_same;
using nn_test::randomise;
using nn_test::refusal;
using nn_test::Weights;
using testing::AllOf;
using testing::HasSubstr;

// Three groups, the last of which no short text fills; head dim 8.
DilatedTransformerOptions small_table() {
  DilatedTransformerOptions o;
  o.d_model = 32;
  o.nhead = 4;
  o.segment_lengths = {8, 24, 64};
  o.dilation_rates = {1, 3, 2};
  o.dim_feedforward = 48;
  o.dropout = 0;
  return o;
}

// A spread of the options that DilatedTransformerOptions does not name.
TransformerLayerOptions varied(int variant) {
  TransformerLayerOptions o = small_table();
  o.attention.kv_heads = variant % 3 == 0 ? 2 : 0;
  o.attention.fused_qkv = variant % 2 == 0;
  o.attention.bias = variant % 4 != 1;
  o.attention.qk_norm = variant % 4 >= 2;
  o.attention.sinks = variant % 3 == 1;
  o.attention.attention.pattern = o.attention.attention.pattern.with_causal(variant % 5 < 3);
  o.attention.positions.kind = static_cast<Positions>(variant % 4);
  if (variant % 2 == 1) o.attention.attention.softmax_scale = 0.3;
  o.attention.sub_layer_norm = variant % 6 != 4;
  o.attention.layer_norm_eps = variant % 2 == 0 ? 1e-5 : 1e-2;
  o.activation = activation_names().at(size_t(variant) % activation_names().size());
  return o;
}

Tensor input(int64_t batch, int64_t len, int64_t dim = 32) {
  return torch::randn({batch, len, dim}, at::TensorOptions(at::kDouble).requires_grad(true));
}

TEST(Multihead, GradientsEqualThoseOfTheFormula) {
  for (int variant = 0; variant < 6; ++variant) {
    SCOPED_TRACE(variant);
    torch::manual_seed(variant);
    MultiheadDilatedAttentionOptions o = varied(variant).attention;
    o.sub_layer_norm = variant % 2 == 0;
    MultiheadDilatedAttention module(o);
    randomise(*module, 1);
    const Tensor x = input(2, 29), y = input(2, 29), z = input(2, 29);
    AttentionOptions call;
    call.lengths = {29, 17};
    MultiheadCall lengths;
    lengths.lengths = call.lengths;
    expect_same(
        *module, {x}, [&] { return module(x, lengths).first; },
        [&](const Weights& w) { return nn_test::dense_multihead(w, "", o, x, x, x, call); });
    expect_same(
        *module, {x, y, z}, [&] { return module->forward_cross(x, y, z, lengths).first; },
        [&](const Weights& w) { return nn_test::dense_multihead(w, "", o, x, y, z, call); });
  }
}

TEST(EncoderLayer, EqualsTheFormulaForwardAndBackward) {
  for (int variant = 0; variant < 6; ++variant) {
    SCOPED_TRACE(variant);
    torch::manual_seed(variant);
    const TransformerLayerOptions o = varied(variant);
    DilatedTransformerEncoderLayer layer(o);
    randomise(*layer, 2);
    const Tensor x = input(2, 70);
    AttentionOptions call;
    MultiheadCall layer_call;
    if (variant % 2 == 0) layer_call.cu_seqlens = call.cu_seqlens = std::vector<int64_t>{0, 21, 21, 70};
    expect_same(
        *layer, {x}, [&] { return layer(x, layer_call); },
        [&](const Weights& w) { return nn_test::dense_encoder_layer(w, "", o, x, call); });
  }
}

TEST(DecoderLayer, EqualsTheFormulaForwardAndBackward) {
  for (int variant = 0; variant < 6; ++variant) {
    SCOPED_TRACE(variant);
    torch::manual_seed(variant);
    const DecoderLayerOptions o{varied(variant), variant % 2 == 0};
    DilatedTransformerDecoderLayer layer(o);
    randomise(*layer, 3);
    const Tensor x = input(2, 37), memory = input(2, 37);
    AttentionOptions call;
    MultiheadCall layer_call;
    if (variant >= 3) layer_call.lengths = call.lengths = std::vector<int64_t>{37, 12};
    expect_same(
        *layer, {x, memory}, [&] { return layer(x, memory, layer_call); },
        [&](const Weights& w) { return nn_test::dense_decoder_layer(w, "", o, x, memory, call); });
  }
}

TEST(DecoderLayer, CausalSwitchesAreApart) {
  const at::NoGradGuard no_grad;
  for (const bool causal : {false, true}) {
    for (const bool memory_causal : {false, true}) {
      DilatedTransformerOptions o = small_table();
      o.causal = causal;
      o.memory_causal = memory_causal;
      DilatedTransformerDecoderLayer layer(o);
      randomise(*layer, 4);
      const Tensor x = input(1, 40), memory = input(1, 40);
      const auto moved = [&](const Tensor& t) {
        const Tensor other = t.clone();
        other.select(1, 20).neg_();
        return other;
      };
      const auto before_moves = [&](const Tensor& a, const Tensor& b) {
        return distance(layer(a, b).narrow(1, 0, 20), layer(x, memory).narrow(1, 0, 20)) > 1e-6;
      };
      EXPECT_EQ(before_moves(moved(x), memory), !causal);
      EXPECT_EQ(before_moves(x, moved(memory)), !memory_causal);
    }
  }
}

TEST(EncoderLayer, DefaultsAreThoseOfTheKnownLibrary) {
  const DilatedTransformerOptions table{.segment_lengths = {8}, .dilation_rates = {1}};
  EXPECT_EQ(table.dim_feedforward, 2048);
  EXPECT_EQ(table.dropout, 0.1);
  EXPECT_EQ(table.activation, "relu");
  EXPECT_EQ(table.layer_norm_eps, 1e-5);
  EXPECT_EQ(table.gamma_init, 1.0);
  EXPECT_FALSE(table.causal || table.memory_causal);
  const TransformerLayerOptions layer = table;
  EXPECT_TRUE(layer.attention.sub_layer_norm);
  EXPECT_EQ(layer.dropout, 0.1);
  EXPECT_EQ(layer.attention.attention.attention_dropout, 0.1);
  EXPECT_EQ(layer.attention.positions.kind, Positions::kNone);
}

TEST(EncoderLayer, DropoutOnlyWhileTraining) {
  DilatedTransformerOptions o = small_table();
  torch::manual_seed(1);
  DilatedTransformerEncoderLayer plain(o);
  DilatedTransformerDecoderLayer plain_decoder(o);
  o.dropout = 0.3;
  DilatedTransformerEncoderLayer layer(o);
  DilatedTransformerDecoderLayer decoder(o);
  load_weights(*layer, weights(*plain));
  load_weights(*decoder, weights(*plain_decoder));
  const Tensor x = at::randn({1, 24, 32}), memory = at::randn({1, 24, 32});
  EXPECT_GT(distance(layer(x), layer(x)), 1e-3);
  EXPECT_GT(distance(decoder(x, memory), decoder(x, memory)), 1e-3);
  torch::manual_seed(3);
  const Tensor first = decoder(x, memory);
  torch::manual_seed(3);
  EXPECT_TRUE(at::equal(decoder(x, memory), first));
  layer->eval();
  decoder->eval();
  EXPECT_TRUE(at::equal(layer(x), plain(x)));
  EXPECT_TRUE(at::equal(decoder(x, memory), plain_decoder(x, memory)));
}

TEST(DecoderLayer, MagnetoInitialisationOfEveryPart) {
  DilatedTransformerOptions o = small_table();
  o.d_model = 256;
  o.nhead = 8;
  o.dim_feedforward = 512;
  o.gamma_init = 1.7;
  torch::manual_seed(9);
  DilatedTransformerDecoderLayer layer(o);
  const auto check = [](const Tensor& w, double gain, const char* what) {
    const double bound = gain * std::sqrt(6.0 / double(w.size(0) + w.size(1)));
    EXPECT_NEAR(w.abs().max().item<double>(), bound, bound * 1e-3) << what;
    EXPECT_NEAR(w.std().item<double>(), bound / std::sqrt(3.0), bound * 0.01) << what;
  };
  const auto check_all = [&] {
    for (auto* part : {&layer->attention, &layer->memory_attention}) {
      const auto rows = (*part)->qkv_proj->weight.split(256);
      check(rows[0], 1, "q");
      check(rows[1], 1, "k");
      check(rows[2], 1.7, "v");
      check((*part)->out_proj->weight, 1.7, "out");
      EXPECT_FALSE((*part)->inner_norm.is_empty());
    }
    check(layer->feed_forward->fc1->weight, 1.7, "fc1");
    check(layer->feed_forward->fc2->weight, 1.7, "fc2");
    for (const auto& p : layer->named_parameters()) {
      if (!p.key().ends_with("bias")) continue;
      EXPECT_EQ(p.value().abs().max().item<double>(), 0) << p.key();
    }
  };
  check_all();
  const Tensor before = layer->memory_attention->out_proj->weight.clone();
  {
    const at::NoGradGuard no_grad;
    for (auto& p : layer->parameters()) p.add_(1);
  }
  layer->reset_parameters();
  check_all();
  EXPECT_GT(distance(layer->memory_attention->out_proj->weight, before), 1e-3);
}

TEST(DecoderLayer, UsesTheAttentionFnsItIsGiven) {
  int self = 0, crossing = 0;
  const auto counting = [](int* calls) {
    return [calls](const Tensor& q, const Tensor&, const Tensor&, const AttentionOptions&) {
      ++*calls;
      return AttentionResult{at::zeros_like(q), at::zeros({q.size(0), q.size(2), q.size(1)})};
    };
  };
  DilatedTransformerDecoderLayer layer(DecoderLayerOptions(small_table()), counting(&self), counting(&crossing));
  layer(at::randn({1, 5, 32}), at::randn({1, 5, 32}));
  EXPECT_EQ(self, 1);
  EXPECT_EQ(crossing, 1);
  auto copy = std::dynamic_pointer_cast<DilatedTransformerDecoderLayerImpl>(layer->clone());
  copy->forward(at::randn({1, 5, 32}), at::randn({1, 5, 32}));
  EXPECT_EQ(self, 2);
  EXPECT_EQ(crossing, 2);
}

TEST(TransformerLayers, RefuseBadOptions) {
  const auto message = [](const std::function<void(DilatedTransformerOptions&)>& change) {
    DilatedTransformerOptions o = small_table();
    change(o);
    const std::string text = refusal([&] { DilatedTransformerDecoderLayer layer(o); });
    o.memory_causal = false;
    EXPECT_EQ(refusal([&] { DilatedTransformerEncoderLayer layer(o); }), text);
    return text;
  };
  EXPECT_THAT(message([](auto& o) { o.segment_lengths = {}; }), HasSubstr("cannot be empty"));
  EXPECT_THAT(message([](auto& o) { o.dilation_rates = {1}; }), HasSubstr("must have the same length: 3 != 1"));
  EXPECT_THAT(message([](auto& o) { o.segment_lengths[1] = -4; }), HasSubstr("[1] must be positive, got -4"));
  EXPECT_THAT(message([](auto& o) { o.d_model = 0; }), HasSubstr("must be positive, got 0"));
  EXPECT_THAT(message([](auto& o) { o.nhead = 0; }), HasSubstr("must be positive, got 0"));
  EXPECT_THAT(message([](auto& o) { o.nhead = 5; }), HasSubstr("must be a multiple of num_heads 5, got 32"));
  EXPECT_THAT(message([](auto& o) { o.dim_feedforward = -1; }), HasSubstr("dim_feedforward must be positive, got -1"));
  EXPECT_THAT(message([](auto& o) { o.dropout = 1; }), HasSubstr("must be in [0, 1), got 1"));
  EXPECT_THAT(message([](auto& o) { o.dropout = NAN; }), HasSubstr("must be in [0, 1), got nan"));
  EXPECT_THAT(message([](auto& o) { o.dropout = -0.1; }), HasSubstr("must be in [0, 1), got -0.1"));
  EXPECT_THAT(message([](auto& o) { o.activation = "rleu"; }), HasSubstr("did you mean 'relu'?"));
  EXPECT_THAT(message([](auto& o) { o.layer_norm_eps = 0; }), HasSubstr("layer_norm_eps must be positive"));
  EXPECT_THAT(message([](auto& o) { o.gamma_init = -2; }), HasSubstr("gamma_init must be positive"));
  DilatedTransformerOptions o = small_table();
  o.memory_causal = true;
  EXPECT_THAT(refusal([&] { DilatedTransformerEncoderLayer layer(o); }), HasSubstr("memory_causal"));
}

TEST(DecoderLayer, RefusesBadInput) {
  DilatedTransformerDecoderLayer layer(small_table());
  const Tensor x = at::randn({2, 9, 32});
  EXPECT_THAT(refusal([&] {
                layer(x, at::randn({2, 8, 32}));
              }),
              AllOf(HasSubstr("memory must have the shape of x [2, 9, 32]"), HasSubstr("[2, 8, 32]")));
  EXPECT_THAT(refusal([&] { layer(x, x.to(at::kDouble)); }), HasSubstr("dtype"));
  MultiheadCall call;
  call.need_lse = true;
  EXPECT_THAT(refusal([&] { layer(x, x, call); }), HasSubstr("need_lse"));
  call.need_lse = false;
  KeyValueCache cache;
  call.cache = &cache;
  EXPECT_THAT(refusal([&] { layer(x, x, call); }), HasSubstr("cache must be unset"));
}

TEST(TransformerLayers, JsonRoundTripsAndRefusals) {
  for (int variant = 0; variant < 6; ++variant) {
    const DecoderLayerOptions o{varied(variant), variant % 2 == 0};
    EXPECT_EQ(DecoderLayerOptions::from_json(o.to_json()), o);
    EXPECT_EQ(TransformerLayerOptions::from_json(o.layer.to_json()), o.layer);
    EXPECT_EQ(MultiheadDilatedAttentionOptions::from_json(o.layer.attention.to_json()), o.layer.attention);
    EXPECT_EQ(DilatedAttentionOptions::from_json(o.layer.attention.attention.to_json()), o.layer.attention.attention);
  }
  const FeedForwardOptions feed_forward{16, 32, "gelu", 0.5, false, 1e-3, 2.0};
  EXPECT_EQ(FeedForwardOptions::from_json(feed_forward.to_json()), feed_forward);
  DilatedAttentionOptions table = varied(0).attention.attention;
  table.pattern = Pattern::dilated({8, 24, 64}, {1, 3, 2},
                                   {.offsets = {{0, 0, 0, 1, 1, 1}},
                                    .mixing = Mixing::kHeadPartition,
                                    .average = true,
                                    .padding = Padding::kZeroKeys});
  EXPECT_EQ(DilatedAttentionOptions::from_json(table.to_json()), table);
  EXPECT_THAT(refusal([&] { TransformerLayerOptions::from_json(R"({"num_head": 4})"); }),
              AllOf(HasSubstr("unknown config key 'num_head'"), HasSubstr("did you mean 'num_heads'?")));
  EXPECT_THAT(refusal([&] { DilatedAttentionOptions::from_json(R"({"offsets": 3})"); }), HasSubstr("list of integers"));
  EXPECT_THAT(refusal([&] { DilatedAttentionOptions::from_json("{}"); }), HasSubstr("cannot be empty"));
}

}  // namespace
}  // namespace longstride
