// LongNetLMConfig: defaults and checks. Called by LongNetLM, checkpoints and the program.
#include <cmath>
#include <variant>

#include "longstride/nn/longnet_lm.h"
#include "nn/require.h"

namespace longstride {

LongNetLMConfig::LongNetLMConfig() {
  layer.attention.embed_dim = 256;
  layer.attention.num_heads = 8;
  layer.attention.attention.pattern =
      Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 6, 12}, {.causal = true});
  layer.attention.positions.kind = Positions::kRope;
  layer.attention.gamma_init = 0;
  layer.dim_feedforward = 0;
  layer.dropout = 0;
  layer.activation = "gelu";
}

TransformerLayerOptions LongNetLMConfig::whole_layer() const {
  TransformerLayerOptions o = layer;
  if (o.dim_feedforward == 0) o.dim_feedforward = 4 * o.attention.embed_dim;
  if (o.attention.gamma_init == 0) o.attention.gamma_init = std::sqrt(std::log(2.0 * static_cast<double>(layers)));
  return o;
}

void LongNetLMConfig::validate() const {
  const MultiheadDilatedAttentionOptions& o = layer.attention;
  nn::require_positive("vocab", vocab);
  nn::require_positive("dim", o.embed_dim);
  nn::require_positive("layers", layers);
  nn::require_positive("heads", o.num_heads);
  if (o.embed_dim % o.num_heads != 0) {
    core::refuse("dim", fmt::format("must be a multiple of heads {}", o.num_heads), o.embed_dim);
  }
  if (layer.dim_feedforward < 0) {
    core::refuse("dim_feedforward", "must be positive, or 0 for 4 * dim", layer.dim_feedforward);
  }
  if (!(o.gamma_init >= 0) || !std::isfinite(o.gamma_init)) {
    core::refuse("gamma_init", "must be positive, or 0 for the default", o.gamma_init);
  }
  if (!o.attention.pattern.causal()) {
    core::refuse("causal", "must be true in a language model", "false", "it predicts what follows");
  }
  if (o.attention.learned) {
    core::refuse("learned", "must be unset in a language model", "learned blocks",
                 "it decodes token by token, and a block is chosen by all of its row; give blocks");
  }
  for (const BlockPattern& block : o.attention.pattern.blocks()) {
    const std::string needed = std::visit([](const auto& rule) { return rule.needed_to_stay(); }, block.rule());
    if (needed.empty()) continue;
    core::refuse("blocks", "must be the same for a prefix as for what it grows into, or decoding is not the model",
                 block.name(), fmt::format("give {}", needed));
  }
  whole_layer().validate();
}

}  // namespace longstride
