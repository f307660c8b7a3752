// LongNetConfig: defaults, gammas and checks. Called by LongNet, checkpoints and the factory.
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

}  // namespace longstride
