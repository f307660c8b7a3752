// See dense_layers.h.
#include "test/nn/dense_layers.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

namespace longstride::nn_test {
namespace {

using at::Tensor;

Tensor norm(const Weights& w, const std::string& key, const Tensor& x, double eps) {
  const Tensor mean = x.mean(-1, true);
  const Tensor spread = (x - mean).square().mean(-1, true);
  return (x - mean) / (spread + eps).sqrt() * w.at(key + ".weight") + w.at(key + ".bias");
}

Tensor linear(const Weights& w, const std::string& key, const Tensor& x) {
  const Tensor y = at::matmul(x, w.at(key + ".weight").t());
  return w.contains(key + ".bias") ? y + w.at(key + ".bias") : y;
}

// [batch, len, heads, dim], turned by the angles of its positions; xPos scales by zeta^(sign * n / scale_base).
Tensor turn(const Tensor& x, const PositionOptions& o, double sign) {
  if (o.kind == Positions::kNone || o.kind == Positions::kAlibi) return x;
  const int64_t len = x.size(1), dim = x.size(3);
  const Tensor n = at::arange(len, at::kDouble).view({len, 1, 1});
  const Tensor part = at::arange(0, dim, 2, at::kDouble) / double(dim);  // [dim/2]
  const Tensor angle = n * at::pow(o.base, -part);                       // [len, 1, dim/2]
  Tensor size = at::ones_like(angle);
  if (o.kind == Positions::kXpos) size = at::pow((part + 0.4) / 1.4, n * (sign / o.scale_base()));
  const Tensor even = x.slice(3, 0, dim, 2), odd = x.slice(3, 1, dim, 2);
  const Tensor cosine = angle.cos() * size, sine = angle.sin() * size;
  return at::stack({even * cosine - odd * sine, even * sine + odd * cosine}, 4).flatten(3);
}

Tensor activated(const std::string& name, const Tensor& x) {
  if (name == "relu") return x.clamp_min(0);
  if (name == "tanh") return x.tanh();
  if (name == "silu" || name == "swish") return x * x.sigmoid();
  if (name == "gelu") return 0.5 * x * (1 + (x / std::sqrt(2.0)).erf());
  if (name == "gelu_tanh") return 0.5 * x * (1 + (std::sqrt(2 / M_PI) * (x + 0.044715 * x.pow(3))).tanh());
  ADD_FAILURE() << "no formula for activation " << name;
  return x;
}

Tensor feed_forward(const Weights& w, const std::string& prefix, const TransformerLayerOptions& o, const Tensor& x) {
  Tensor h = activated(o.activation, linear(w, prefix + "fc1", x));
  if (o.attention.sub_layer_norm) h = norm(w, prefix + "inner_norm", h, o.attention.layer_norm_eps);
  return linear(w, prefix + "fc2", h);
}

// A layer's own switches in its attention's options.
}  // namespace

Weights leaves(const torch::nn::Module& module) {
  Weights all;
  for (const auto& [key, tensor] : weights(module)) all[key] = tensor.clone().requires_grad_();
  return all;
}

Tensor dense_multihead(const Weights& w, const std::string& prefix, const MultiheadDilatedAttentionOptions& o,
                       const Tensor& query, const Tensor& key, const Tensor& value, const AttentionOptions& call) {
  const int64_t dim = o.embed_dim / o.num_heads, kv_heads = o.kv_heads == 0 ? o.num_heads : o.kv_heads;
  const auto heads = [&](const Tensor& t, int64_t count) { return t.reshape({t.size(0), t.size(1), count, dim}); };
  Tensor q, k, v;
  if (o.fused_qkv) {
    const std::vector<int64_t> rows = {o.embed_dim, kv_heads * dim, kv_heads * dim};
    const auto part = [&](int which, const Tensor& x) {
      const int64_t begin = which == 0 ? 0 : which == 1 ? rows[0] : rows[0] + rows[1];
      const Tensor y = at::matmul(x, w.at(prefix + "qkv_proj.weight").narrow(0, begin, rows[size_t(which)]).t());
      return o.bias ? y + w.at(prefix + "qkv_proj.bias").narrow(0, begin, rows[size_t(which)]) : y;
    };
    q = part(0, query);
    k = part(1, key);
    v = part(2, value);
  } else {
    q = linear(w, prefix + "q_proj", query);
    k = linear(w, prefix + "k_proj", key);
    v = linear(w, prefix + "v_proj", value);
  }
  q = heads(q, o.num_heads);
  k = heads(k, kv_heads);
  v = heads(v, kv_heads);
  if (o.qk_norm) {
    q = norm(w, prefix + "q_norm", q, o.layer_norm_eps);
    k = norm(w, prefix + "k_norm", k, o.layer_norm_eps);
  }
  AttentionOptions with_scale = call;
  with_scale.scale = o.attention.softmax_scale;
  if (o.positions.kind == Positions::kAlibi)  // of as many heads as a power of 2
    with_scale.alibi_slopes = o.positions.alibi_slopes.empty()
                                  ? at::pow(2, at::arange(1, o.num_heads + 1) * (-8.0 / double(o.num_heads)))
                                  : at::tensor(o.positions.alibi_slopes);
  const auto [seen, lse] =
      dense_attention(turn(q, o.positions, 1), turn(k, o.positions, -1), v, o.attention.pattern, with_scale);
  Tensor out = seen.flatten(2);
  if (o.sinks) {                   // e^sink more in every denominator
    const Tensor sum = lse.exp();  // [batch, heads, len]
    const Tensor kept = sum / (sum + w.at(prefix + "sinks").exp().unsqueeze(-1));
    out = (seen * kept.transpose(1, 2).unsqueeze(-1)).flatten(2);
  }
  if (o.sub_layer_norm) out = norm(w, prefix + "inner_norm", out, o.layer_norm_eps);
  return linear(w, prefix + "out_proj", out);
}

Tensor dense_encoder_layer(const Weights& w, const std::string& prefix, const TransformerLayerOptions& o,
                           const Tensor& x, const AttentionOptions& call) {
  const Tensor y = norm(w, prefix + "attention_norm", x, o.attention.layer_norm_eps);
  const Tensor attended = x + dense_multihead(w, prefix + "attention.", o.attention, y, y, y, call);
  const Tensor z = norm(w, prefix + "feed_forward_norm", attended, o.attention.layer_norm_eps);
  return attended + feed_forward(w, prefix + "feed_forward.", o, z);
}

Tensor dense_decoder_layer(const Weights& w, const std::string& prefix, const DecoderLayerOptions& o, const Tensor& x,
                           const Tensor& memory, const AttentionOptions& call) {
  const double eps = o.layer.attention.layer_norm_eps;
  const Tensor y = norm(w, prefix + "attention_norm", x, eps);
  Tensor h = x + dense_multihead(w, prefix + "attention.", o.layer.attention, y, y, y, call);
  MultiheadDilatedAttentionOptions crossing = o.layer.attention;
  crossing.attention.pattern = crossing.attention.pattern.with_causal(o.memory_causal);
  h = h + dense_multihead(w, prefix + "memory_attention.", crossing, norm(w, prefix + "memory_norm", h, eps), memory,
                          memory, call);
  return h + feed_forward(w, prefix + "feed_forward.", o.layer, norm(w, prefix + "feed_forward_norm", h, eps));
}

Tensor dense_longnet(const Weights& w, const LongNetConfig& c, const Tensor& source, const Tensor& target,
                     const AttentionOptions& call) {
  Tensor memory = source;
  if (c.form != LongNetForm::kDecoder) {
    for (int64_t i = 0; i < c.num_encoder_layers; ++i) {
      memory = dense_encoder_layer(w, fmt::format("encoder_layers.{}.", i), c.encoder_layer(), memory, call);
    }
    memory = norm(w, "encoder_norm", memory, c.layer.attention.layer_norm_eps);
  }
  if (c.form == LongNetForm::kEncoder) return memory;
  Tensor x = target.defined() ? target : source;
  for (int64_t i = 0; i < c.num_decoder_layers; ++i) {
    const std::string prefix = fmt::format("decoder_layers.{}.", i);
    x = c.form == LongNetForm::kDecoder ? dense_encoder_layer(w, prefix, c.decoder_layer().layer, x, call)
                                        : dense_decoder_layer(w, prefix, c.decoder_layer(), x, memory, call);
  }
  return norm(w, "decoder_norm", x, c.layer.attention.layer_norm_eps);
}

void expect_same(torch::nn::Module& module, const std::vector<Tensor>& inputs, const std::function<Tensor()>& forward,
                 const std::function<Tensor(const Weights&)>& dense) {
  const Weights w = leaves(module);
  const Tensor expected = dense(w);
  const Tensor given = at::randn(expected.sizes(), expected.options().requires_grad(false));
  std::vector<Tensor> wanted = inputs;
  for (const auto& [key, tensor] : w) wanted.push_back(tensor);
  const auto expected_grads = torch::autograd::grad({expected}, wanted, {given}, std::nullopt, false, true);

  const Tensor got = forward();
  EXPECT_LT(distance(got, expected), 1e-10);
  std::vector<Tensor> mine = inputs;
  const auto parameters = module.named_parameters();
  for (const auto& [key, tensor] : w) mine.push_back(parameters[key]);
  const auto grads = torch::autograd::grad({got}, mine, {given}, std::nullopt, false, true);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const std::string key =
        i < inputs.size() ? fmt::format("input {}", i) : std::next(w.begin(), i - inputs.size())->first;
    ASSERT_TRUE(grads[i].defined() && expected_grads[i].defined()) << key;
    EXPECT_LT(distance(grads[i], expected_grads[i]), 1e-9) << key;
    // What is added to every key alike drops out of a softmax; all else moves the output.
    if (key.ends_with("k_proj.bias")) continue;
    EXPECT_GT(expected_grads[i].abs().max().item<double>(), 0) << key;
  }
}

void randomise(torch::nn::Module& module, uint64_t seed) {
  const at::NoGradGuard no_grad;
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  module.to(at::kDouble);
  for (auto& p : module.parameters()) p.add_(at::randn(p.sizes(), generator, p.options().requires_grad(false)), 0.1);
}

}  // namespace longstride::nn_test
