// LongNetLMConfig: defaults and checks. Called by LongNetLM, checkpoints and the program.
#include <torch/torch.h>

#include <cmath>

#include "longstride/nn/longnet_lm.h"
#include "nn/require.h"

namespace longstride {

double LongNetLMConfig::gamma() const {
  return gamma_init > 0 ? gamma_init : std::sqrt(std::log(2.0 * static_cast<double>(layers)));
}

TransformerLayerOptions LongNetLMConfig::layer() const {
  TransformerLayerOptions o;
  o.attention.embed_dim = dim;
  o.attention.num_heads = heads;
  o.attention.kv_heads = kv_heads;
  o.attention.attention.segment_lengths = segment_lengths;
  o.attention.attention.dilation_rates = dilation_rates;
  o.attention.attention.causal = true;
  o.attention.attention.head_offset = head_offset;
  o.attention.attention.mixing = mixing;
  o.attention.attention.attention_dropout = attention_dropout;
  o.attention.fused_qkv = fused_qkv;
  o.attention.qk_norm = qk_norm;
  o.attention.positions = {positions, rope_base, xpos_scale_base, max_len};
  o.dim_feedforward = feedforward();
  o.dropout = dropout;
  o.activation = activation;
  o.layer_norm_eps = layer_norm_eps;
  o.gamma_init = gamma();
  return o;
}

void LongNetLMConfig::validate() const {
  nn::require_positive("vocab", vocab);
  nn::require_positive("dim", dim);
  nn::require_positive("layers", layers);
  nn::require_positive("heads", heads);
  if (dim % heads != 0) {
    core::refuse("dim", fmt::format("must be a multiple of heads {}", heads), std::to_string(dim));
  }
  if (dim_feedforward < 0) {
    core::refuse("dim_feedforward", "must be positive, or 0 for 4 * dim", std::to_string(dim_feedforward));
  }
  if (!(gamma_init >= 0) || !std::isfinite(gamma_init)) {
    core::refuse("gamma_init", "must be positive, or 0 for the default", fmt::format("{}", gamma_init));
  }
  layer().validate();
}

}  // namespace longstride
