// to_json() and from_json() of every options struct of this room. Called by users, checkpoints and the program.
#include <torch/torch.h>

#include "core/refuse.h"
#include "nn/option_fields.h"

namespace longstride {

void nn::read(const std::string& key, const Json& value, LearnedBlocks& field) {
  if (!value.is_object()) core::refuse(key, "must be an object", text_of(value, -1));
  field = config_of("key of " + key, value, LearnedBlocks(), learned_blocks_fields);
}

nn::Json nn::written(const LearnedBlocks& field) { return json_of(field, learned_blocks_fields); }

std::string DilatedAttentionOptions::to_json() const { return nn::to_json(*this, nn::dilated_attention_fields); }
DilatedAttentionOptions DilatedAttentionOptions::from_json(std::string_view text) {
  return nn::from_json<DilatedAttentionOptions>(text, nn::dilated_attention_fields);
}

std::string MultiheadDilatedAttentionOptions::to_json() const { return nn::to_json(*this, nn::multihead_fields); }
MultiheadDilatedAttentionOptions MultiheadDilatedAttentionOptions::from_json(std::string_view text) {
  return nn::from_json<MultiheadDilatedAttentionOptions>(text, nn::multihead_fields);
}

std::string FeedForwardOptions::to_json() const { return nn::to_json(*this, nn::feed_forward_fields); }
FeedForwardOptions FeedForwardOptions::from_json(std::string_view text) {
  return nn::from_json<FeedForwardOptions>(text, nn::feed_forward_fields);
}

std::string TransformerLayerOptions::to_json() const { return nn::to_json(*this, nn::transformer_layer_fields); }
TransformerLayerOptions TransformerLayerOptions::from_json(std::string_view text) {
  return nn::from_json<TransformerLayerOptions>(text, nn::transformer_layer_fields);
}

std::string DecoderLayerOptions::to_json() const { return nn::to_json(*this, nn::decoder_layer_fields); }
DecoderLayerOptions DecoderLayerOptions::from_json(std::string_view text) {
  return nn::from_json<DecoderLayerOptions>(text, nn::decoder_layer_fields);
}

std::string LongNetConfig::to_json() const { return nn::to_json(*this, nn::longnet_fields); }
LongNetConfig LongNetConfig::from_json(std::string_view text) {
  return nn::from_json<LongNetConfig>(text, nn::longnet_fields);
}

std::string LongNetLMConfig::to_json() const { return nn::to_json(*this, nn::longnet_lm_fields); }
LongNetLMConfig LongNetLMConfig::from_json(std::string_view text) {
  return nn::from_json<LongNetLMConfig>(text, nn::longnet_lm_fields);
}

}  // namespace longstride
