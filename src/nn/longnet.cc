// LongNet: its config, and stacks of layers between LayerNorms. Called by users and the factory.
#include "longstride/nn/longnet.h"

#include <torch/nn/module.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "nn/layer_parts.h"
#include "nn/placement.h"
#include "nn/require.h"

namespace longstride {
namespace {

const std::array<std::string, 3> kForms = {"encoder", "decoder", "encoder_decoder"};

double ln(double factor, int64_t layers) { return std::log(factor * static_cast<double>(layers)); }

void require_gamma(const char* argument, double value) {
  if (!(value >= 0) || !std::isfinite(value)) core::refuse(argument, "must be positive, or 0 for the default", value);
}

// A switch of a part that the form lacks would have no effect.
void require_untouched(const char* argument, bool untouched, LongNetForm form) {
  if (untouched) return;
  core::refuse(argument, fmt::format("must have its default in the form {}, which lacks that part", name(form)),
               "another value", "leave it out");
}

}  // namespace

LongNetForm longnet_form_from_name(const std::string& text) {
  const auto found = std::find(kForms.begin(), kForms.end(), text);
  if (found == kForms.end()) core::refuse_unknown("form", text, kForms);
  return static_cast<LongNetForm>(found - kForms.begin());
}

const char* name(LongNetForm form) {
  const auto index = static_cast<size_t>(form);
  if (index >= kForms.size()) core::refuse("form", "must be kEncoder, kDecoder or kEncoderDecoder", index);
  return kForms[index].c_str();
}

double LongNetConfig::encoder_gamma() const {
  if (encoder_gamma_init > 0) return encoder_gamma_init;
  const double alone = ln(2, num_encoder_layers);
  return std::sqrt(has_decoder() ? ln(3, num_decoder_layers) * alone / 3 : alone);
}

double LongNetConfig::decoder_gamma() const {
  if (decoder_gamma_init > 0) return decoder_gamma_init;
  return std::sqrt(has_encoder() ? ln(3, num_decoder_layers) : ln(2, num_decoder_layers));
}

LongNetConfig::LongNetConfig() {
  layer.attention.embed_dim = 768;
  layer.attention.num_heads = 12;
  layer.attention.attention.pattern = Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 6, 12});
  layer.dim_feedforward = 3072;
  layer.dropout = 0;
}

TransformerLayerOptions LongNetConfig::encoder_layer() const {
  TransformerLayerOptions o = layer;
  o.attention.attention.pattern = layer.attention.attention.pattern.with_causal(encoder_causal);
  o.attention.gamma_init = has_encoder() ? encoder_gamma() : 1.0;
  return o;
}

DecoderLayerOptions LongNetConfig::decoder_layer() const {
  DecoderLayerOptions o{layer, memory_causal};
  o.layer.attention.attention.pattern = layer.attention.attention.pattern.with_causal(decoder_causal);
  o.layer.attention.gamma_init = decoder_gamma();
  return o;
}

void LongNetConfig::validate() const {
  const LongNetConfig defaults;
  const int64_t width = layer.attention.embed_dim, heads = layer.attention.num_heads;
  nn::require_positive("d_model", width);
  nn::require_positive("nhead", heads);
  if (width % heads != 0) core::refuse("d_model", fmt::format("must be a multiple of nhead {}", heads), width);
  if (layer.attention.attention.pattern.causal()) {
    core::refuse("layer's causal", "must be false", "true", "say encoder_causal, decoder_causal or memory_causal");
  }
  if (layer.attention.gamma_init != defaults.layer.attention.gamma_init) {
    core::refuse("layer's gamma_init", "must have its default", layer.attention.gamma_init,
                 "say encoder_gamma_init or decoder_gamma_init");
  }
  if (layer.attention.attention.learned) {
    core::refuse("learned", "must be unset in a LongNet, whose calls have no way out for the density loss",
                 "learned blocks", "build a model of TransformerLayers, whose MultiheadCall has `choice`");
  }
  require_gamma("encoder_gamma_init", encoder_gamma_init);
  require_gamma("decoder_gamma_init", decoder_gamma_init);
  if (has_encoder()) {
    nn::require_positive("num_encoder_layers", num_encoder_layers);
  } else {
    require_untouched("encoder_causal", encoder_causal == defaults.encoder_causal, form);
    require_untouched("encoder_gamma_init", encoder_gamma_init == 0, form);
  }
  if (has_decoder()) {
    nn::require_positive("num_decoder_layers", num_decoder_layers);
  } else {
    require_untouched("decoder_causal", decoder_causal == defaults.decoder_causal, form);
    require_untouched("decoder_gamma_init", decoder_gamma_init == 0, form);
  }
  if (form != LongNetForm::kEncoderDecoder) {
    require_untouched("memory_causal", memory_causal == defaults.memory_causal, form);
  }
  if (has_encoder()) encoder_layer().validate();
  if (has_decoder()) decoder_layer().validate();
}

LongNetImpl::LongNetImpl(LongNetConfig given, LongNetAttention attend)
    : config(std::move(given)), attend_(std::move(attend)) {
  config.validate();
  nn::within_memory("d_model", std::to_string(config.layer.attention.embed_dim), [&] { reset(); });
}

void LongNetImpl::reset() {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  if (config.has_encoder()) {
    encoder_layers = register_module("encoder_layers", torch::nn::ModuleList());
    for (int64_t i = 0; i < config.num_encoder_layers; ++i) {
      encoder_layers->push_back(TransformerLayer(config.encoder_layer(), attend_.encoder));
    }
    encoder_norm = register_module("encoder_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  }
  if (config.has_decoder()) {
    decoder_layers = register_module("decoder_layers", torch::nn::ModuleList());
    const DecoderLayerOptions layer = config.decoder_layer();
    for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
      if (config.has_encoder()) {
        decoder_layers->push_back(DilatedTransformerDecoderLayer(layer, attend_.decoder, attend_.memory));
      } else {
        decoder_layers->push_back(TransformerLayer(layer.layer, attend_.decoder));
      }
    }
    decoder_norm = register_module("decoder_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  }
}

void LongNetImpl::reset_parameters() {
  for (auto* stack : {&encoder_layers, &decoder_layers}) {
    if (stack->is_empty()) continue;
    for (const auto& child : **stack) {
      if (auto* layer = child->as<TransformerLayer>()) {
        layer->reset_parameters();
      } else {
        child->as<DilatedTransformerDecoderLayer>()->reset_parameters();
      }
    }
  }
  for (auto norm : {encoder_norm, decoder_norm}) {
    if (!norm.is_empty()) norm->reset_parameters();
  }
}

const nn::Placement* LongNetImpl::placement() const {
  const auto& layers = config.has_encoder() ? encoder_layers : decoder_layers;
  return layers->ptr(0)->as<TransformerLayer>()->attention->attention->placement();
}

void LongNetImpl::check(const char* argument, const at::Tensor& x, const CallOptions& call) const {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  nn::check_input(argument, x, o.embed_dim, (config.has_encoder() ? encoder_norm : decoder_norm)->weight);
  const int64_t most = o.positions.max_len;
  if (const int64_t len = nn::whole_length(placement(), argument, x.size(1), call); len > most) {
    core::refuse(argument, fmt::format("must not be longer than max_len {}", most), len, "raise max_len in the config");
  }
}

at::Tensor LongNetImpl::run_layers(torch::nn::ModuleList& layers, at::Tensor x, const at::Tensor& memory,
                                   const CallOptions& call) {
  // One set of factors for all layers, of the type in which attention will run.
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  const RotaryFactors rotary = nn::row_factors(o, placement(), call, 0, x.size(1), nn::attention_type(x), x.device());
  const bool draws_random = is_training() && config.layer.draws_random();
  for (const auto& child : *layers) {
    const auto plain = std::dynamic_pointer_cast<TransformerLayerImpl>(child);
    const auto crossing = std::dynamic_pointer_cast<DilatedTransformerDecoderLayerImpl>(child);
    // Holds all that it reads: the backward may run it long after this call.
    const auto run = [plain, crossing, memory, call, rotary](const at::Tensor& in) {
      MultiheadCall layer_call{call};
      if (rotary.defined()) layer_call.rotary = &rotary;
      return plain ? plain->forward(in, layer_call) : crossing->forward(in, memory, layer_call);
    };
    if (config.activation_checkpointing) {
      std::vector<at::Tensor> read = child->parameters();
      if (crossing) read.push_back(memory);
      x = checkpoint(run, x, std::move(read), draws_random);
    } else {
      x = run(x);
    }
  }
  return x;
}

at::Tensor LongNetImpl::encode(const at::Tensor& source, const CallOptions& call) {
  if (!config.has_encoder()) {
    core::refuse("encode()", "needs a form with an encoder", longstride::name(config.form), "call forward()");
  }
  check("source", source, call);
  return encoder_norm(run_layers(encoder_layers, source, {}, call));
}

at::Tensor LongNetImpl::decode(const at::Tensor& target, const at::Tensor& memory, const CallOptions& call) {
  if (config.form != LongNetForm::kEncoderDecoder) {
    core::refuse("decode()", "needs the form encoder_decoder", longstride::name(config.form), "call forward()");
  }
  check("target", target, call);
  check("memory", memory, call);
  if (target.sizes() != memory.sizes()) {
    core::refuse("target", fmt::format("must have the shape of the source {}", nn::shape_text(memory)),
                 nn::shape_text(target), "pad the shorter one and mark its rows with lengths");
  }
  return decoder_norm(run_layers(decoder_layers, target, memory, call));
}

at::Tensor LongNetImpl::forward(const at::Tensor& source, const at::Tensor& target, const CallOptions& call) {
  if (config.form != LongNetForm::kEncoderDecoder && target.defined()) {
    core::refuse("target", fmt::format("must be unset in the form {}", longstride::name(config.form)),
                 nn::shape_text(target), "use the form encoder_decoder, or pass one sequence");
  }
  check("source", source, call);
  switch (config.form) {
    case LongNetForm::kEncoder:
      return encode(source, call);
    case LongNetForm::kDecoder:
      return decoder_norm(run_layers(decoder_layers, source, {}, call));
    case LongNetForm::kEncoderDecoder:
      break;
  }
  const at::Tensor& read = target.defined() ? target : source;
  if (read.sizes() != source.sizes()) {
    core::refuse("target", fmt::format("must have the shape of the source {}", nn::shape_text(source)),
                 nn::shape_text(read), "pad the shorter one and mark its rows with lengths");
  }
  return decode(read, encode(source, call), call);
}

}  // namespace longstride
