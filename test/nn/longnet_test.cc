// LongNet in its three forms against the formula of dense_layers.h, forward and gradients; gammas, activation
// checkpointing, config and refusals.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <set>

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

LongNetConfig small_longnet(LongNetForm form) {
  LongNetConfig c;
  c.form = form;
  c.num_encoder_layers = 2;
  c.num_decoder_layers = 3;
  c.layer.dim_feedforward = 48;
  MultiheadDilatedAttentionOptions& o = c.layer.attention;
  o.embed_dim = 32;
  o.num_heads = 4;
  o.kv_heads = 2;
  o.attention.pattern = Pattern::dilated({8, 24, 64}, {1, 2, 3});
  o.positions.max_len = 512;
  return c;
}

constexpr LongNetForm kForms[] = {LongNetForm::kEncoder, LongNetForm::kDecoder, LongNetForm::kEncoderDecoder};

Tensor input(int64_t batch, int64_t len) {
  return torch::randn({batch, len, 32}, at::TensorOptions(at::kDouble).requires_grad(true));
}

TEST(LongNet, EqualsTheFormulaForwardAndBackward) {
  for (const LongNetForm form : kForms) {
    for (int variant = 0; variant < 4; ++variant) {
      SCOPED_TRACE(fmt::format("{} {}", name(form), variant));
      torch::manual_seed(variant);
      LongNetConfig c = small_longnet(form);
      c.layer.attention.positions.kind = static_cast<Positions>(variant);
      c.layer.attention.qk_norm = variant == 1;
      c.layer.attention.fused_qkv = variant != 2;
      c.layer.attention.sinks = variant == 3;
      if (form != LongNetForm::kDecoder) c.encoder_causal = variant == 1;
      if (form != LongNetForm::kEncoder) c.decoder_causal = variant != 2;
      if (form == LongNetForm::kEncoderDecoder) c.memory_causal = variant == 1;
      LongNet model(c);
      randomise(*model, 5);
      const Tensor source = input(2, 35), target = input(2, 35);
      AttentionOptions call;
      CallOptions model_call;
      if (variant == 1) model_call.lengths = call.lengths = std::vector<int64_t>{35, 20};
      if (variant == 2) model_call.cu_seqlens = call.cu_seqlens = std::vector<int64_t>{0, 14, 35};
      expect_same(
          *model, {source}, [&] { return model(source, Tensor(), model_call); },
          [&](const Weights& w) { return nn_test::dense_longnet(w, c, source, {}, call); });
      if (form != LongNetForm::kEncoderDecoder) continue;
      expect_same(
          *model, {source, target}, [&] { return model(source, target, model_call); },
          [&](const Weights& w) { return nn_test::dense_longnet(w, c, source, target, call); });
      const Tensor memory = model->encode(source, model_call);
      EXPECT_TRUE(at::equal(model->decode(target, memory, model_call), model(source, target, model_call)));
    }
  }
}

TEST(LongNet, DefaultsAreThePapersBaseModel) {
  const LongNetConfig c;
  EXPECT_EQ(c.form, LongNetForm::kEncoderDecoder);
  EXPECT_EQ(c.layer.attention.embed_dim, 768);
  EXPECT_EQ(c.layer.attention.num_heads, 12);
  EXPECT_EQ(c.num_encoder_layers, 12);
  EXPECT_EQ(c.num_decoder_layers, 12);
  EXPECT_EQ(c.layer.dim_feedforward, 3072);
  EXPECT_EQ(c.layer.dropout, 0);
  EXPECT_EQ(c.layer.attention.attention.pattern, Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 6, 12}));
  EXPECT_NO_THROW(c.validate());
}

TEST(LongNet, GammasAreMagnetos) {
  LongNetConfig c = small_longnet(LongNetForm::kEncoderDecoder);  // N = 2, M = 3
  EXPECT_NEAR(c.encoder_gamma(), std::sqrt(std::log(9.0) * std::log(4.0) / 3), 1e-12);
  EXPECT_NEAR(c.decoder_gamma(), std::sqrt(std::log(9.0)), 1e-12);
  EXPECT_NEAR(small_longnet(LongNetForm::kDecoder).decoder_gamma(), std::sqrt(std::log(6.0)), 1e-12);
  EXPECT_NEAR(small_longnet(LongNetForm::kEncoder).encoder_gamma(), std::sqrt(std::log(4.0)), 1e-12);
  c.layer.attention.embed_dim = 256;
  c.layer.attention.num_heads = 8;
  c.layer.dim_feedforward = 512;
  torch::manual_seed(4);
  const LongNet model(c);
  const auto w = weights(*model);
  const auto check = [&](const std::string& key, double gain) {
    const double bound = gain * std::sqrt(6.0 / double(w.at(key).size(0) + w.at(key).size(1)));
    EXPECT_NEAR(w.at(key).abs().max().item<double>(), bound, bound * 1e-3) << key;
  };
  check("encoder_layers.1.attention.out_proj.weight", c.encoder_gamma());
  check("encoder_layers.0.feed_forward.fc1.weight", c.encoder_gamma());
  check("decoder_layers.2.attention.out_proj.weight", c.decoder_gamma());
  check("decoder_layers.0.memory_attention.out_proj.weight", c.decoder_gamma());
  check("decoder_layers.1.feed_forward.fc2.weight", c.decoder_gamma());
  c.encoder_gamma_init = 0.5;
  c.decoder_gamma_init = 0.25;
  EXPECT_EQ(c.encoder_layer().attention.gamma_init, 0.5);
  EXPECT_EQ(c.decoder_layer().layer.attention.gamma_init, 0.25);
}

struct Step {
  Tensor out, source_grad, target_grad, generator;
  std::vector<Tensor> grads;
};

Step step(LongNet& model, const Tensor& source_values, const Tensor& target_values, bool recompute) {
  model->config.activation_checkpointing = recompute;
  model->zero_grad();
  torch::manual_seed(21);
  const Tensor source = source_values.clone().requires_grad_(), target = target_values.clone().requires_grad_();
  const bool crossing = model->config.form == LongNetForm::kEncoderDecoder;
  const Tensor out = crossing ? model(source, target) : model(source);
  Step s;
  s.generator = at::globalContext().defaultGenerator(at::kCPU).get_state();
  out.square().sum().backward();
  s.out = out.detach();
  s.source_grad = source.grad();
  s.target_grad = crossing ? target.grad() : source.grad();
  for (const auto& p : model->parameters()) s.grads.push_back(p.grad().clone());
  return s;
}

TEST(LongNet, ActivationCheckpointingChangesNothing) {
  for (const LongNetForm form : kForms) {
    SCOPED_TRACE(name(form));
    LongNetConfig c = small_longnet(form);
    c.layer.dropout = 0.2;
    c.layer.attention.attention.attention_dropout = 0.3;
    LongNet model(c);
    model->to(at::kDouble);
    const Tensor source = at::randn({2, 33, 32}, at::kDouble), target = at::randn({2, 33, 32}, at::kDouble);
    // To the bit, but for what flows through the memory: its gradients from the layers and from keys and values are
    // summed in another order.
    const double slack = form == LongNetForm::kEncoderDecoder ? 1e-11 : 0;
    const Step plain = step(model, source, target, false);
    const Step again = step(model, source, target, true);
    EXPECT_TRUE(at::equal(plain.out, again.out));
    EXPECT_LE(distance(plain.source_grad, again.source_grad), slack);
    EXPECT_LE(distance(plain.target_grad, again.target_grad), slack);
    EXPECT_TRUE(at::equal(plain.generator, again.generator));
    for (size_t i = 0; i < plain.grads.size(); ++i) {
      EXPECT_GT(plain.grads[i].abs().max().item<double>(), 0) << model->named_parameters()[i].key();
      EXPECT_LE(distance(plain.grads[i], again.grads[i]), slack) << model->named_parameters()[i].key();
    }
  }
}

TEST(LongNet, CheckpointingKeepsAGraphOfLayers) {
  // Nodes of the graph of one forward: what a backward runs, and whose inputs are kept until then.
  const auto nodes_of_graph = [](bool recompute) {
    LongNetConfig c = small_longnet(LongNetForm::kEncoderDecoder);
    c.activation_checkpointing = recompute;
    LongNet model(c);
    int64_t nodes = 0;
    std::vector<torch::autograd::Node*> open;
    std::set<torch::autograd::Node*> seen;
    const Tensor out = model(at::randn({1, 64, 32}));
    open.push_back(out.grad_fn().get());
    while (!open.empty()) {
      auto* node = open.back();
      open.pop_back();
      if (node == nullptr || !seen.insert(node).second) continue;
      ++nodes;
      for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
    }
    return nodes;
  };
  const int64_t whole = nodes_of_graph(false), recomputed = nodes_of_graph(true);
  // Five layers are five nodes, two LayerNorms, and the leaves of the weights.
  EXPECT_LT(recomputed, whole / 2);
}

TEST(LongNet, DecoderFormIsCausalAndTheOthersAreAsTheySay) {
  const at::NoGradGuard no_grad;
  for (const LongNetForm form : kForms) {
    for (const bool all_causal : {false, true}) {
      SCOPED_TRACE(name(form));
      LongNetConfig c = small_longnet(form);
      c.encoder_causal = all_causal && form != LongNetForm::kDecoder;
      c.memory_causal = all_causal && form == LongNetForm::kEncoderDecoder;
      LongNet model(c);
      randomise(*model, 6);
      const Tensor x = input(1, 40);
      const Tensor moved = x.clone();
      moved.select(1, 20).neg_();
      const double difference = distance(model(moved).narrow(1, 0, 20), model(x).narrow(1, 0, 20));
      if (all_causal || form == LongNetForm::kDecoder) {
        EXPECT_EQ(difference, 0);
      } else {
        EXPECT_GT(difference, 1e-6);
      }
    }
  }
}

TEST(LongNet, ConfigJson) {
  LongNetConfig c = small_longnet(LongNetForm::kEncoderDecoder);
  c.layer.attention.positions.kind = Positions::kXpos;
  c.layer.attention.kv_heads = 0;
  c.layer.attention.attention.pattern = Pattern::dilated({8, 24, 64}, {1, 2, 3},
                                                         {.head_offset = HeadOffset::kBlock,
                                                          .mixing = Mixing::kHeadPartition,
                                                          .average = true,
                                                          .padding = Padding::kZeroKeys})
                                            .with_blocks({{8, LocalWindow{.window = 16}}});
  c.memory_causal = c.encoder_causal = true;
  c.decoder_gamma_init = 0.5;
  EXPECT_EQ(LongNetConfig::from_json(c.to_json()), c);
  EXPECT_EQ(LongNetConfig::from_json("{}"), LongNetConfig());
  const auto message = [](const char* text) { return refusal([&] { LongNetConfig::from_json(text); }); };
  EXPECT_THAT(message(R"({"nheads": 3})"), AllOf(HasSubstr("unknown config key 'nheads'"), HasSubstr("'nhead'?")));
  EXPECT_THAT(message(R"({"form": "decode"})"),
              AllOf(HasSubstr("unknown form 'decode'; one of [encoder, decoder, encoder_decoder]"),
                    HasSubstr("did you mean 'decoder'?")));
  EXPECT_THAT(message(R"({"num_encoder_layers": 0})"), HasSubstr("num_encoder_layers must be positive, got 0"));
  EXPECT_THAT(message(R"({"num_decoder_layers": -1})"), HasSubstr("num_decoder_layers must be positive, got -1"));
  EXPECT_THAT(message(R"({"d_model": 100})"), HasSubstr("d_model must be a multiple of nhead 12, got 100"));
  EXPECT_THAT(message(R"({"encoder_gamma_init": -1})"), HasSubstr("encoder_gamma_init must be positive"));
  EXPECT_THAT(message(R"({"dropout": 1.5})"), HasSubstr("must be in [0, 1), got 1.5"));
  EXPECT_THAT(message(R"({"form": "encoder", "memory_causal": true})"),
              HasSubstr("memory_causal must have its default"));
  EXPECT_THAT(message(R"({"form": "decoder", "encoder_causal": true})"), HasSubstr("encoder_causal must have its"));
  EXPECT_THAT(message(R"({"form": "encoder", "decoder_gamma_init": 2})"), HasSubstr("decoder_gamma_init must have"));
  EXPECT_THAT(message(R"({"max_len": 0})"), HasSubstr("max_len must be positive"));
}

TEST(LongNet, RefusesBadInput) {
  LongNet model(small_longnet(LongNetForm::kEncoderDecoder));
  LongNet encoder(small_longnet(LongNetForm::kEncoder));
  LongNet decoder(small_longnet(LongNetForm::kDecoder));
  const Tensor x = at::randn({2, 9, 32});
  EXPECT_THAT(refusal([&] { model(at::randn({2, 9, 31})); }), HasSubstr("source must be [batch, len, 32]"));
  EXPECT_THAT(refusal([&] { model(Tensor()); }), HasSubstr("an undefined tensor"));
  EXPECT_THAT(refusal([&] {
                model(x, at::randn({2, 8, 32}));
              }),
              AllOf(HasSubstr("target must have the shape of the source [2, 9, 32]"), HasSubstr("[2, 8, 32]")));
  EXPECT_THAT(refusal([&] { model(at::randn({1, 513, 32})); }), HasSubstr("max_len 512, got 513"));
  EXPECT_THAT(refusal([&] { encoder(x, x); }), HasSubstr("target must be unset in the form encoder"));
  EXPECT_THAT(refusal([&] { decoder->encode(x); }), HasSubstr("needs a form with an encoder, got decoder"));
  EXPECT_THAT(refusal([&] { encoder->decode(x, x); }), HasSubstr("needs the form encoder_decoder, got encoder"));
  EXPECT_THAT(refusal([&] { model(x.to(at::kDouble)); }), HasSubstr("dtype"));
  for (auto* any : {&model, &encoder, &decoder}) {
    EXPECT_EQ((*any)(at::randn({2, 0, 32})).sizes(), (std::vector<int64_t>{2, 0, 32}));
    EXPECT_EQ((*any)(at::randn({2, 1, 32})).sizes(), (std::vector<int64_t>{2, 1, 32}));
  }
}

}  // namespace
}  // namespace longstride
