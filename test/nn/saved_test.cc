// Models that an earlier version saved still load, field by field, and compute what they computed then.
#include <gtest/gtest.h>

#include "test/nn/support.h"

namespace longstride {
namespace {

using at::Tensor;

std::filesystem::path saved(const char* name) { return std::filesystem::path(LONGSTRIDE_SAVED_MODELS) / name; }

// run(model, input) on what the model read and gave when it was saved.
template <class Holder, class Run>
Holder expect_as_saved(const char* name, const Run& run) {
  const at::NoGradGuard no_grad;
  Holder model = load_model<Holder>(saved(name));
  model->eval();
  const auto then = load_tensors(saved(name) / "run.safetensors");
  EXPECT_LT(nn_test::distance(run(model, then.tensors.at("in")), then.tensors.at("out")), 1e-5) << name;
  return model;
}

Tensor plain(auto& model, const Tensor& x) { return model(x); }

TEST(SavedModels, OfEveryClassLoadAndComputeTheSame) {
  const auto call = [](auto& model, const Tensor& x) { return plain(model, x); };
  expect_as_saved<DilatedAttention>("attention", [](auto& m, const Tensor& x) { return m(x, x, x).out; });
  expect_as_saved<MultiheadDilatedAttention>("multihead", [](auto& m, const Tensor& x) { return m(x).first; });
  expect_as_saved<FeedForward>("feed_forward", call);
  expect_as_saved<TransformerLayer>("layer", call);
  expect_as_saved<DilatedTransformerDecoderLayer>("decoder_layer", [](auto& m, const Tensor& x) { return m(x, x); });
  expect_as_saved<LongNet>("longnet", call);
  expect_as_saved<LongNetLM>("longnet_lm", call);
}

// What does not show in eval mode, and what is said in another place now.
TEST(SavedModels, KeepTheirOptions) {
  const DilatedAttentionOptions attention = load_model<DilatedAttention>(saved("attention"))->options;
  EXPECT_EQ(attention.pattern, Pattern::dilated({4, 12}, {1, 2},
                                                {.head_offset = HeadOffset::kGroup,
                                                 .mixing = Mixing::kHeadPartition,
                                                 .average = true,
                                                 .padding = Padding::kZeroKeys}));
  const TransformerLayerOptions layer = load_model<TransformerLayer>(saved("layer"))->options;
  EXPECT_EQ(layer.attention.attention.pattern,
            Pattern::dilated({4, 12}, {1, 2}, {.causal = true}).with_blocks({{4, LocalWindow{.window = 8}}}));
  EXPECT_EQ(layer.attention.attention.attention_dropout, 0.25);
  EXPECT_EQ(layer.attention.attention.softmax_scale, 0.4);
  EXPECT_TRUE(layer.attention.sub_layer_norm);
  EXPECT_EQ(layer.attention.layer_norm_eps, 1e-3);
  EXPECT_EQ(layer.attention.gamma_init, 2.0);
  EXPECT_EQ(layer.dropout, 0.3);
  const LongNetConfig longnet = load_model<LongNet>(saved("longnet"))->config;
  EXPECT_EQ(longnet.encoder_layer().attention.gamma_init, 0.5);
  EXPECT_TRUE(longnet.encoder_layer().attention.attention.pattern.causal());
  EXPECT_EQ(longnet.layer.attention.attention.attention_dropout, 0.2);
  EXPECT_EQ(longnet.layer.dropout, 0.1);
  EXPECT_EQ(longnet.layer.attention.positions.max_len, 64);
  const LongNetLMConfig lm = load_model<LongNetLM>(saved("longnet_lm"))->config;
  EXPECT_EQ(lm.layer.attention.attention.pattern,
            Pattern::dilated({4, 12}, {1, 2}, {.causal = true}).with_blocks({{4, Strided{2}}}));
  EXPECT_EQ(lm.whole_layer().dim_feedforward, 32);
  EXPECT_EQ(lm.layer.dropout, 0.1);
}

}  // namespace
}  // namespace longstride
