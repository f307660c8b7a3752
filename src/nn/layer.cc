// Feed-forward and the pre-LN transformer layer with sub-LN. Called by LongNetLM and users.
#include "longstride/nn/layer.h"

#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <torch/nn/init.h>
#include <torch/nn/module.h>

#include <array>

#include "nn/layer_parts.h"
#include "nn/require.h"

namespace longstride {
namespace {

struct NamedActivation {
  const char* name;
  Activation function;
};

at::Tensor relu(const at::Tensor& x) { return at::relu(x); }
at::Tensor gelu(const at::Tensor& x) { return at::gelu(x); }
at::Tensor gelu_tanh(const at::Tensor& x) { return at::gelu(x, "tanh"); }
at::Tensor silu(const at::Tensor& x) { return at::silu(x); }
at::Tensor tanh(const at::Tensor& x) { return at::tanh(x); }

constexpr std::array<NamedActivation, 6> kActivations = {
    {{"relu", relu}, {"gelu", gelu}, {"gelu_tanh", gelu_tanh}, {"silu", silu}, {"swish", silu}, {"tanh", tanh}}};

}  // namespace

namespace nn {

void check_input(const char* argument, const at::Tensor& x, int64_t embed_dim, const at::Tensor& weight) {
  require_dense(argument, x);
  if (x.dim() != 3 || x.size(2) != embed_dim) {
    core::refuse(argument, fmt::format("must be [batch, len, {}]", embed_dim), nn::shape_text(x));
  }
  check_type(argument, x, weight);
}

std::optional<at::ScalarType> autocast_type(at::DeviceType device) {
  if (!at::autocast::is_autocast_available(device) || !at::autocast::is_autocast_enabled(device)) return std::nullopt;
  return at::autocast::get_autocast_dtype(device);
}

at::ScalarType attention_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : autocast_type(x.device().type()).value_or(x.scalar_type());
}

void check_type(const char* argument, const at::Tensor& x, const at::Tensor& weight) {
  const bool autocast = autocast_type(x.device().type()).has_value();
  if (!x.is_floating_point() || (!autocast && x.scalar_type() != weight.scalar_type())) {
    core::refuse(argument, fmt::format("must have the module's dtype {}", c10::toString(weight.scalar_type())),
                 c10::toString(x.scalar_type()), "convert one of them with to()");
  }
  if (x.device() != weight.device()) {
    core::refuse(argument, fmt::format("must be on the module's device {}", weight.device().str()), x.device().str(),
                 "move one of them with to()");
  }
}

void refuse_lse(const MultiheadCall& call) {
  if (!call.need_lse) return;
  core::refuse("need_lse", "must be false in a layer, which returns one tensor", "true",
               "call MultiheadDilatedAttention for the lse");
}

}  // namespace nn

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const auto& a : kActivations) all.emplace_back(a.name);
    return all;
  }();
  return names;
}

Activation activation_from_name(const std::string& text) {
  for (const auto& a : kActivations) {
    if (text == a.name) return a.function;
  }
  core::refuse_unknown("activation", text, activation_names());
}

void FeedForwardOptions::validate() const {
  nn::require_positive("dim", dim);
  nn::require_positive("dim_feedforward", hidden);
  (void)activation_from_name(activation);
  nn::require_dropout("dropout", dropout);
  nn::require_positive_finite("layer_norm_eps", layer_norm_eps);
  nn::require_positive_finite("gamma_init", gamma_init);
}

FeedForwardImpl::FeedForwardImpl(FeedForwardOptions given) : options(std::move(given)) {
  options.validate();
  nn::within_memory("dim x dim_feedforward", fmt::format("{} x {}", options.dim, options.hidden), [&] { reset(); });
}

void FeedForwardImpl::reset() {
  fc1 = register_module("fc1", torch::nn::Linear(options.dim, options.hidden));
  fc2 = register_module("fc2", torch::nn::Linear(options.hidden, options.dim));
  if (options.sub_layer_norm) {
    inner_norm = register_module("inner_norm", nn::layer_norm(options.hidden, options.layer_norm_eps));
  }
  dropout = register_module("dropout", torch::nn::Dropout(options.dropout));
  reset_parameters();
}

void FeedForwardImpl::reset_parameters() {
  const at::NoGradGuard no_grad;
  for (auto& projection : {fc1, fc2}) {
    torch::nn::init::xavier_uniform_(projection->weight, options.gamma_init);
    projection->bias.zero_();
  }
  if (options.sub_layer_norm) inner_norm->reset_parameters();
}

at::Tensor FeedForwardImpl::forward(const at::Tensor& x) {
  nn::require_dense("x", x);
  if (x.dim() < 1 || x.size(-1) != options.dim) {
    core::refuse("x", fmt::format("must be [..., {}]", options.dim), nn::shape_text(x));
  }
  nn::check_type("x", x, fc1->weight);
  at::Tensor h = dropout(activation_from_name(options.activation)(fc1(x)));  // [..., hidden]
  if (options.sub_layer_norm) h = inner_norm(h);
  return fc2(h);
}

FeedForwardOptions TransformerLayerOptions::feed_forward() const {
  return {attention.embed_dim,      dim_feedforward,          activation,          dropout,
          attention.sub_layer_norm, attention.layer_norm_eps, attention.gamma_init};
}

void TransformerLayerOptions::validate() const {
  attention.validate();
  feed_forward().validate();
}

TransformerLayerImpl::TransformerLayerImpl(TransformerLayerOptions given, AttentionFn attend)
    : options(std::move(given)), attend_(std::move(attend)) {
  options.validate();
  nn::within_memory("embed_dim", std::to_string(options.attention.embed_dim), [&] { reset(); });
}

void TransformerLayerImpl::reset() {
  const MultiheadDilatedAttentionOptions& o = options.attention;
  attention_norm = register_module("attention_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  attention = register_module("attention", MultiheadDilatedAttention(o, attend_));
  feed_forward_norm = register_module("feed_forward_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  feed_forward = register_module("feed_forward", FeedForward(options.feed_forward()));
  dropout = register_module("dropout", torch::nn::Dropout(options.dropout));
}

void TransformerLayerImpl::reset_parameters() {
  attention_norm->reset_parameters();
  feed_forward_norm->reset_parameters();
  attention->reset_parameters();
  feed_forward->reset_parameters();
}

at::Tensor TransformerLayerImpl::forward(const at::Tensor& x, const MultiheadCall& call) {
  nn::refuse_lse(call);
  nn::check_input("x", x, options.attention.embed_dim, attention->out_proj->weight);
  const at::Tensor attended = x + dropout(attention->forward(attention_norm(x), call).first);
  return attended + dropout(feed_forward(feed_forward_norm(attended)));
}

}  // namespace longstride
