// LongNetLM: its formula, causality, loss, activation checkpointing and decoding.
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/optim/adamw.h>
#include <torch/utils.h>

#include <cmath>
#include <thread>

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

LongNetLM make_double(const LongNetLMConfig& config) {
  LongNetLM model(config);
  model->to(at::kDouble);
  return model;
}

// The model's formula on its weights: dense attention, RoPE by sines and cosines.
Tensor straightforward(LongNetLM& model, const Tensor& tokens) {
  const LongNetLMConfig& c = model->config;
  const MultiheadDilatedAttentionOptions& o = c.layer.attention;
  const auto w = weights(*model);
  const auto norm = [&](const Tensor& x, const std::string& key) {
    return at::layer_norm(x, {x.size(-1)}, w.at(key + ".weight"), w.at(key + ".bias"), o.layer_norm_eps);
  };
  const auto linear = [&](const Tensor& x, const std::string& key) {
    return at::matmul(x, w.at(key + ".weight").t()) + w.at(key + ".bias");
  };
  const int64_t len = tokens.size(1), dim = o.head_dim(), kv_heads = o.key_value_heads();
  const Tensor angle = at::arange(len, at::kDouble).unsqueeze(1) *
                       at::pow(o.positions.base, at::arange(0, dim, 2, at::kDouble) / -double(dim));  // [len, dim/2]
  const Tensor cosine = angle.cos().unsqueeze(1), sine = angle.sin().unsqueeze(1);                    // [len, 1, dim/2]
  const auto turn = [&](const Tensor& x) {
    const Tensor even = x.slice(3, 0, dim, 2), odd = x.slice(3, 1, dim, 2);
    return at::stack({even * cosine - odd * sine, even * sine + odd * cosine}, 4).flatten(3);
  };
  Tensor x = w.at("embedding.weight").index_select(0, tokens.flatten()).view({tokens.size(0), len, o.embed_dim}) *
             std::sqrt(double(o.embed_dim));
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    const auto parts = linear(norm(x, layer + "attention_norm"), layer + "attention.qkv_proj")
                           .split_with_sizes({o.embed_dim, kv_heads * dim, kv_heads * dim}, 2);
    const Tensor q = parts[0].reshape({-1, len, o.num_heads, dim});
    const Tensor k = parts[1].reshape({-1, len, kv_heads, dim});
    const Tensor v = parts[2].reshape({-1, len, kv_heads, dim});
    const auto attended = nn_test::dense_attention(turn(q), turn(k), v, o.attention.pattern).out.flatten(2);
    x = x + linear(norm(attended, layer + "attention.inner_norm"), layer + "attention.out_proj");
    const Tensor inner = at::gelu(linear(norm(x, layer + "feed_forward_norm"), layer + "feed_forward.fc1"));
    x = x + linear(norm(inner, layer + "feed_forward.inner_norm"), layer + "feed_forward.fc2");
  }
  const auto& head = c.tied_head ? w.at("embedding.weight") : w.at("head.weight");
  return at::matmul(norm(x, "final_norm"), head.t());
}

TEST(LongNetLM, EqualsStraightforwardTorchCode) {
  const at::NoGradGuard no_grad;
  for (const bool tied : {false, true}) {
    auto config = small_config();
    config.tied_head = tied;
    auto model = make_double(config);
    for (auto& p : model->parameters()) p.add_(at::randn_like(p), 0.05);
    const Tensor tokens = random_tokens(2, 70, config.vocab, 1);
    EXPECT_LT(distance(model(tokens), straightforward(model, tokens)), 1e-9);
  }
}

TEST(LongNetLM, Initialisation) {
  auto config = small_config();
  const double gamma = config.whole_layer().attention.gamma_init;
  EXPECT_NEAR(gamma, std::sqrt(std::log(6.0)), 1e-12);
  config.layer.attention.embed_dim = 256;
  config.layer.dim_feedforward = 512;
  config.vocab = 1000;
  torch::manual_seed(3);
  LongNetLM model(config);
  const auto w = weights(*model);
  const double bound = gamma * std::sqrt(6.0 / (256 + 512));
  for (const char* key : {"layers.0.feed_forward.fc1.weight", "layers.2.feed_forward.fc2.weight"}) {
    EXPECT_NEAR(w.at(key).abs().max().item<double>(), bound, bound * 1e-3) << key;
    EXPECT_NEAR(w.at(key).std().item<double>(), bound / std::sqrt(3.0), bound * 0.01) << key;
  }
  EXPECT_NEAR(w.at("embedding.weight").std().item<double>(), 1.0 / 16, 1e-3);
  const Tensor value_rows = w.at("layers.1.attention.qkv_proj.weight").narrow(0, 256 + 128, 128);
  const double value_bound = gamma * std::sqrt(6.0 / (256 + 128));
  EXPECT_NEAR(value_rows.abs().max().item<double>(), value_bound, value_bound * 1e-3);
}

TEST(LongNetLM, APrefixNeverDependsOnWhatFollows) {
  const at::NoGradGuard no_grad;
  for (const auto positions : {Positions::kNone, Positions::kRope, Positions::kXpos, Positions::kAlibi}) {
    auto config = small_config();
    config.layer.attention.positions.kind = positions;
    auto model = make_double(config);
    const Tensor tokens = random_tokens(1, 90, config.vocab, 2);
    const Tensor logits = model(tokens);
    for (const int64_t p : {1, 8, 23, 24, 64, 89}) {
      Tensor changed = tokens.clone();
      changed.narrow(1, p, 90 - p).add_(1).remainder_(config.vocab);
      const Tensor other = model(changed);
      EXPECT_TRUE(at::equal(other.narrow(1, 0, p), logits.narrow(1, 0, p))) << p;
      EXPECT_GT(distance(other.narrow(1, p, 1), logits.narrow(1, p, 1)), 1e-6) << p;
      EXPECT_LT(distance(model(tokens.narrow(1, 0, p)), logits.narrow(1, 0, p)), 1e-10) << p;
    }
  }
}

TEST(LongNetLM, DocumentsAndLengthsAreApart) {
  const at::NoGradGuard no_grad;
  auto config = small_config();
  auto model = make_double(config);
  const Tensor tokens = random_tokens(1, 50, config.vocab, 4);
  CallOptions packed;
  packed.cu_seqlens = {0, 20, 50};
  const Tensor logits = model(tokens, packed);
  EXPECT_LT(distance(logits.narrow(1, 0, 20), model(tokens.narrow(1, 0, 20))), 1e-10);
  EXPECT_LT(distance(logits.narrow(1, 20, 30), model(tokens.narrow(1, 20, 30))), 1e-10);
  CallOptions cut;
  cut.lengths = {20};
  EXPECT_LT(distance(model(tokens, cut).narrow(1, 0, 20), logits.narrow(1, 0, 20)), 1e-10);
}

TEST(LongNetLM, LossOverChunksIsCrossEntropy) {
  auto config = small_config();
  config.vocab = 70000;  // 59 positions a chunk
  config.layer.attention.embed_dim = 16;
  config.layer.attention.num_heads = 2;
  config.layer.attention.kv_heads = 1;
  config.layers = 1;
  for (const bool tied : {false, true}) {
    config.tied_head = tied;
    auto model = make_double(config);
    const Tensor tokens = random_tokens(2, 75, config.vocab, 5);
    Tensor targets = random_tokens(2, 75, config.vocab, 6);
    targets[0][3] = LongNetLMImpl::kIgnored;
    targets[1][74] = LongNetLMImpl::kIgnored;
    const Tensor loss = model->loss(tokens, targets);
    loss.backward();
    std::map<std::string, Tensor> grads;
    for (auto& p : model->named_parameters()) {
      grads[p.key()] = p.value().grad().clone();
      p.value().mutable_grad() = Tensor();
    }
    const Tensor expected = at::cross_entropy_loss(model(tokens).flatten(0, 1), targets.flatten());
    EXPECT_LT(distance(loss, expected), 1e-10);
    expected.backward();
    for (auto& p : model->named_parameters()) EXPECT_LT(distance(grads[p.key()], p.value().grad()), 1e-10) << p.key();
    const Tensor losses = model->token_losses(tokens, targets);
    EXPECT_EQ(losses.sizes(), tokens.sizes());
    EXPECT_EQ(losses[0][3].item<double>(), 0);
  }
}

struct Step {
  Tensor loss;
  std::vector<Tensor> grads;
  Tensor generator;
};

Step step(LongNetLM& model, const Tensor& tokens, bool recompute, bool autocast) {
  torch::manual_seed(11);
  model->zero_grad();
  model->config.activation_checkpointing = recompute;
  at::autocast::set_autocast_enabled(at::kCPU, autocast);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  const Tensor loss = model->loss(tokens.slice(1, 0, -1), tokens.slice(1, 1));
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  loss.backward();
  Step s{loss.detach(), {}, at::globalContext().defaultGenerator(at::kCPU).get_state()};
  for (const auto& p : model->parameters()) s.grads.push_back(p.grad().clone());
  return s;
}

TEST(LongNetLM, ActivationCheckpointingChangesNothing) {
  auto config = small_config();
  config.layer.dropout = 0.2;
  config.layer.attention.attention.attention_dropout = 0.3;
  LongNetLM model(config);
  const Tensor tokens = random_tokens(2, 61, config.vocab, 7);
  for (const bool autocast : {false, true}) {
    SCOPED_TRACE(autocast);
    const Step plain = step(model, tokens, false, autocast);
    const Step again = step(model, tokens, true, autocast);
    EXPECT_TRUE(at::equal(plain.loss, again.loss));
    EXPECT_TRUE(at::equal(plain.generator, again.generator));
    ASSERT_EQ(plain.grads.size(), again.grads.size());
    for (size_t i = 0; i < plain.grads.size(); ++i) {
      EXPECT_GT(plain.grads[i].abs().max().item<double>(), 0);
      EXPECT_TRUE(at::equal(plain.grads[i], again.grads[i])) << model->named_parameters()[i].key();
    }
  }
}

TEST(Checkpoint, IsAPureFunctionOfItsInputs) {
  const Tensor w = at::randn({3}, at::kDouble).requires_grad_();
  const Tensor frozen = at::randn({3}, at::kDouble);
  const Tensor x = at::randn({3}, at::kDouble).requires_grad_();
  const auto f = [&](const Tensor& in) { return (in * w).sin() * frozen; };
  const Tensor y = checkpoint(f, x, {w, frozen}, false);
  const auto grads = torch::autograd::grad({y.sum()}, {x, w});
  const auto expected = torch::autograd::grad({f(x).sum()}, {x, w});
  EXPECT_TRUE(at::equal(grads[0], expected[0]));
  EXPECT_TRUE(at::equal(grads[1], expected[1]));
  EXPECT_FALSE(w.grad().defined());
  EXPECT_THAT(refusal([&] {
                const Tensor twice = checkpoint(f, x, {w}, false);
                torch::autograd::grad({twice.sum()}, {x}, {}, true, /*create_graph=*/true);
              }),
              HasSubstr("activation_checkpointing"));
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(checkpoint(f, x, {w}, false).requires_grad());
}

// Every kind of positions, and every option of a layer's attention that a cache could get wrong.
std::vector<LongNetLMConfig> decoded_configs() {
  std::vector<LongNetLMConfig> all(5, small_config());
  for (const auto kind : {Positions::kNone, Positions::kRope, Positions::kXpos, Positions::kAlibi}) {
    MultiheadDilatedAttentionOptions& o = all[static_cast<size_t>(kind)].layer.attention;
    o.positions.kind = kind;
    o.qk_norm = o.sinks = kind == Positions::kXpos;
  }
  MultiheadDilatedAttentionOptions& o = all[4].layer.attention;
  o.bias = o.sub_layer_norm = false;
  o.attention.softmax_scale = 0.7;
  o.attention.pattern = Pattern::dilated({8, 24}, {2, 3},
                                         {.causal = true,
                                          .offsets = std::vector<int64_t>{1, 0, 0, 2},
                                          .mixing = Mixing::kHeadPartition,
                                          .average = true,
                                          .padding = Padding::kZeroKeys});
  return all;
}

TEST(LongNetLM, DecodingEqualsRecomputing) {
  const at::NoGradGuard no_grad;
  for (const LongNetLMConfig& config : decoded_configs()) {
    auto model = make_double(config);
    model->eval();
    const Tensor tokens = random_tokens(2, 100, config.vocab, 8);
    const Tensor all = model(tokens);
    DecodeState state = model->start_decoding(2, 100);
    const void* memory = state.layers[0].k.data_ptr();
    int64_t at = 0;
    for (const int64_t n : {1, 7, 30, 1, 1, 1, 23, 1, 35}) {
      const Tensor logits = model->decode(tokens.narrow(1, at, n), state);
      at += n;
      EXPECT_LT(distance(logits, all.select(1, at - 1)), 1e-10) << at;
    }
    EXPECT_EQ(state.length, 100);
    EXPECT_EQ(state.layers[0].k.data_ptr(), memory);
    EXPECT_THAT(refusal([&] { model->decode(tokens.narrow(1, 0, 1), state); }), HasSubstr("100 of 100"));
  }
}

TEST(LongNetLM, FloatDecodingAgreesAndArgmaxIsEqual) {
  const at::NoGradGuard no_grad;
  LongNetLM model(small_config());
  model->eval();
  const Tensor tokens = random_tokens(1, 120, 31, 9);
  const Tensor all = model(tokens);
  DecodeState state = model->start_decoding(1, 120);
  for (int64_t i = 0; i < 120; ++i) {
    const Tensor logits = model->decode(tokens.narrow(1, i, 1), state);
    EXPECT_LT(distance(logits, all.select(1, i)), 2e-4) << i;
    EXPECT_TRUE(at::equal(logits.argmax(1), all.select(1, i).argmax(1))) << i;
  }
}

TEST(LongNetLM, AFailedStepCanBeRunAgain) {
  const at::NoGradGuard no_grad;
  int left = 1000;
  auto config = small_config();
  const AttentionFn local = local_attention(config.layer.attention.attention.pattern);
  LongNetLM model(config, [&, local](const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& o) {
    if (--left == 0) throw Error("out of luck");
    return local(q, k, v, o);
  });
  model->eval();
  const Tensor tokens = random_tokens(1, 20, 31, 10);
  DecodeState state = model->start_decoding(1, 20);
  model->decode(tokens.narrow(1, 0, 12), state);
  left = 2;  // the second of three layers
  EXPECT_THROW(model->decode(tokens.narrow(1, 12, 1), state), Error);
  EXPECT_EQ(state.length, 12);
  left = 1000;
  const Tensor logits = model->decode(tokens.narrow(1, 12, 1), state);
  EXPECT_LT(distance(logits, model(tokens.narrow(1, 0, 13)).select(1, 12)), 1e-4);
}

TEST(LongNetLM, RefusesBadInput) {
  LongNetLM model(small_config());
  const Tensor tokens = random_tokens(1, 5, 31, 13);
  EXPECT_THAT(refusal([&] { model(tokens + 30); }), HasSubstr("tokens must be in [0, 31)"));
  EXPECT_THAT(refusal([&] { model(tokens.to(at::kFloat)); }), HasSubstr("int64 [batch, len]"));
  EXPECT_THAT(refusal([&] { model(tokens[0]); }), HasSubstr("got Long [5]"));
  EXPECT_THAT(refusal([&] {
                model(at::zeros({1, 513}, at::kLong));
              }),
              AllOf(HasSubstr("max_len 512"), HasSubstr("513")));
  EXPECT_THAT(refusal([&] { model->loss(tokens, tokens.narrow(1, 0, 4)); }), HasSubstr("shape of tokens [1, 5]"));
  EXPECT_THAT(refusal([&] { model->loss(tokens, tokens - 50); }), HasSubstr("targets must be in"));
  EXPECT_THAT(refusal([&] { model->loss(tokens, at::full_like(tokens, -100)); }), HasSubstr("one that counts"));
  EXPECT_EQ(model(tokens.narrow(1, 0, 0)).sizes(), (std::vector<int64_t>{1, 0, 31}));
  DecodeState state;
  EXPECT_THAT(refusal([&] { model->decode(tokens, state); }), HasSubstr("eval"));
  model->eval();
  EXPECT_THAT(refusal([&] { model->decode(tokens, state); }), HasSubstr("start_decoding"));
  EXPECT_THAT(refusal([&] { model->start_decoding(1, 513); }), HasSubstr("max_len 512"));
}

TEST(LongNetLM, ConfigJson) {
  auto config = small_config();
  config.layer.attention.attention.pattern =
      Pattern::dilated({8, 24}, {1, 2}, {.causal = true, .head_offset = HeadOffset::kBlock});
  config.layer.attention.positions.kind = Positions::kXpos;
  config.layer.dropout = 0.1;
  config.tied_head = true;
  EXPECT_EQ(LongNetLMConfig::from_json(config.to_json()), config);
  EXPECT_EQ(LongNetLMConfig::from_json("{}"), LongNetLMConfig());
  const auto message = [](const char* text) { return refusal([&] { LongNetLMConfig::from_json(text); }); };
  EXPECT_THAT(message(R"({"layerz": 3})"), AllOf(HasSubstr("unknown config key 'layerz'"), HasSubstr("'layers'?")));
  EXPECT_THAT(message(R"({"layers": 3.5})"), HasSubstr("layers must be an integer, got 3.5"));
  EXPECT_THAT(message(R"({"dilation_rates": [1, "2"]})"), HasSubstr("dilation_rates[1] must be an integer"));
  EXPECT_THAT(message(R"({"tied_head": 1})"), HasSubstr("true or false"));
  EXPECT_THAT(message(R"({"head_offset": "modulus"})"), HasSubstr("did you mean 'modulo'"));
  EXPECT_THAT(message(R"({"activation": "geluu"})"), AllOf(HasSubstr("activation"), HasSubstr("did you mean 'gelu'")));
  EXPECT_THAT(message(R"({"layers": 0})"), HasSubstr("layers must be positive, got 0"));
  EXPECT_THAT(message(R"({"dropout": 1})"), HasSubstr("dropout must be in [0, 1)"));
  EXPECT_THAT(message(R"({"vocab": 99999999999999999999})"), HasSubstr("vocab"));
  EXPECT_THAT(message(R"([1])"), HasSubstr("object"));
  EXPECT_THAT(message(R"({"layers")"), HasSubstr("JSON"));
  for (const auto& activation : activation_names()) {
    config.layer.activation = activation;
    EXPECT_NO_THROW(LongNetLM{config}) << activation;
  }
  EXPECT_LT(distance(activation_from_name("swish")(at::ones({1})), at::ones({1}).sigmoid()), 1e-7);
}

TEST(LongNetLM, ClonesTrainApart) {
  LongNetLM model(small_config());
  const Tensor tokens = random_tokens(2, 40, 31, 14);
  const Tensor before = model(tokens).detach();
  LongNetLM copy(std::dynamic_pointer_cast<LongNetLMImpl>(model->clone()));
  EXPECT_TRUE(at::equal(copy(tokens), before));
  torch::optim::AdamW optimizer(copy->parameters(), torch::optim::AdamWOptions(3e-3));
  double first = 0, last = 0;
  for (int i = 0; i < 30; ++i) {
    optimizer.zero_grad();
    const Tensor loss = copy->loss(tokens.slice(1, 0, -1), tokens.slice(1, 1));
    loss.backward();
    optimizer.step();
    last = loss.item<double>();
    if (i == 0) first = last;
  }
  EXPECT_LT(last, 0.5 * first);
  EXPECT_TRUE(at::equal(model(tokens), before));
  EXPECT_GT(distance(copy(tokens), before), 0.1);
}

TEST(LongNetLM, TwoThreadsGiveTheSerialResult) {
  const at::NoGradGuard no_grad;
  LongNetLM model(small_config());
  model->eval();
  const Tensor a = random_tokens(1, 60, 31, 15), b = random_tokens(2, 33, 31, 16);
  const Tensor serial_a = model(a), serial_b = model(b);
  const auto work = [&](const Tensor& tokens, const Tensor& expected, int* wrong) {
    const at::NoGradGuard inner;
    for (int i = 0; i < 20; ++i) *wrong += !at::equal(model->forward(tokens), expected);
  };
  int wrong_a = 0, wrong_b = 0;
  std::thread first(work, a, serial_a, &wrong_a), second(work, b, serial_b, &wrong_b);
  first.join();
  second.join();
  EXPECT_EQ(wrong_a, 0);
  EXPECT_EQ(wrong_b, 0);
}

}  // namespace
}  // namespace longstride
