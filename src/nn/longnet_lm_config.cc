// LongNetLMConfig: defaults and checks. Called by LongNetLM, checkpoints and the program.
#include <torch/torch.h>

#include <cmath>
#include <variant>

#include "longstride/nn/longnet_lm.h"
#include "nn/require.h"

namespace longstride {
namespace {

// What a rule must be given so that its causal rows are the same in every longer sequence; empty: they are. Causal
// random blocks are such: a row's share is counted over the rows up to it. A list must fit into every sequence.
const char* needed_to_stay(const BlockPattern& block) {
  if (const auto* window = std::get_if<LocalWindow>(&block.rule())) return window->density ? "window" : "";
  if (const auto* dilated = std::get_if<DilatedSparse>(&block.rule())) return dilated->density ? "reach" : "";
  if (const auto* axial = std::get_if<Axial>(&block.rule())) return axial->grid_columns ? "" : "grid_columns";
  if (std::holds_alternative<BlockList>(block.rule())) return "a rule in place of a list";
  return "";
}

}  // namespace

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
  o.attention.attention.blocks = blocks;
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
  for (const BlockPattern& block : blocks) {
    const std::string needed = needed_to_stay(block);
    if (needed.empty()) continue;
    core::refuse("blocks", "must be the same for a prefix as for what it grows into, or decoding is not the model",
                 block.name(), fmt::format("give {}", needed));
  }
  layer().validate();
}

}  // namespace longstride
