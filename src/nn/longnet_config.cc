// LongNetConfig: defaults, gammas and checks. Called by LongNet, checkpoints and the factory.
#include <torch/torch.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "longstride/nn/longnet.h"
#include "nn/require.h"

namespace longstride {
namespace {

const std::array<std::string, 3> kForms = {"encoder", "decoder", "encoder_decoder"};

double ln(double factor, int64_t layers) { return std::log(factor * static_cast<double>(layers)); }

void require_gamma(const char* argument, double value) {
  if (!(value >= 0) || !std::isfinite(value)) {
    core::refuse(argument, "must be positive, or 0 for the default", fmt::format("{}", value));
  }
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
  if (index >= kForms.size()) {
    core::refuse("form", "must be kEncoder, kDecoder or kEncoderDecoder", std::to_string(index));
  }
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

TransformerLayerOptions LongNetConfig::encoder_layer() const {
  TransformerLayerOptions o;
  o.attention.embed_dim = d_model;
  o.attention.num_heads = nhead;
  o.attention.kv_heads = kv_heads;
  o.attention.attention.segment_lengths = segment_lengths;
  o.attention.attention.dilation_rates = dilation_rates;
  o.attention.attention.causal = encoder_causal;
  o.attention.attention.head_offset = head_offset;
  o.attention.attention.mixing = mixing;
  o.attention.attention.average = average;
  o.attention.attention.padding = padding;
  o.attention.attention.attention_dropout = attention_dropout;
  o.attention.fused_qkv = fused_qkv;
  o.attention.qk_norm = qk_norm;
  o.attention.positions = {positions, rope_base, xpos_scale_base, max_len};
  o.dim_feedforward = dim_feedforward;
  o.dropout = dropout;
  o.activation = activation;
  o.layer_norm_eps = layer_norm_eps;
  o.gamma_init = has_encoder() ? encoder_gamma() : 1.0;
  return o;
}

DecoderLayerOptions LongNetConfig::decoder_layer() const {
  DecoderLayerOptions o{encoder_layer(), memory_causal};
  o.layer.attention.attention.causal = decoder_causal;
  o.layer.gamma_init = decoder_gamma();
  return o;
}

void LongNetConfig::validate() const {
  const LongNetConfig defaults;
  nn::require_positive("d_model", d_model);
  nn::require_positive("nhead", nhead);
  if (d_model % nhead != 0) {
    core::refuse("d_model", fmt::format("must be a multiple of nhead {}", nhead), std::to_string(d_model));
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

}  // namespace longstride
