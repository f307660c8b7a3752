// to_json() and from_json() of every options struct of this room. Called by users, checkpoints and the program.
#include "core/refuse.h"
#include "longstride/nn/longnet.h"
#include "longstride/nn/longnet_lm.h"
#include "nn/json_fields.h"

namespace longstride {

void nn::read(const std::string& key, const Json& value, LearnedBlocks& field) {
  if (!value.is_object()) core::refuse(key, "must be an object", text_of(value, -1));
  field = options_of("key of " + key, value, LearnedBlocks());
}

nn::Json nn::written(const LearnedBlocks& field) { return json_of(field); }

std::string DilatedAttentionOptions::to_json() const { return nn::to_json(*this); }
DilatedAttentionOptions DilatedAttentionOptions::from_json(std::string_view text) {
  return nn::from_json<DilatedAttentionOptions>(text);
}

std::string MultiheadDilatedAttentionOptions::to_json() const { return nn::to_json(*this); }
MultiheadDilatedAttentionOptions MultiheadDilatedAttentionOptions::from_json(std::string_view text) {
  return nn::from_json<MultiheadDilatedAttentionOptions>(text);
}

std::string FeedForwardOptions::to_json() const { return nn::to_json(*this); }
FeedForwardOptions FeedForwardOptions::from_json(std::string_view text) {
  return nn::from_json<FeedForwardOptions>(text);
}

std::string TransformerLayerOptions::to_json() const { return nn::to_json(*this); }
TransformerLayerOptions TransformerLayerOptions::from_json(std::string_view text) {
  return nn::from_json<TransformerLayerOptions>(text);
}

std::string DecoderLayerOptions::to_json() const { return nn::to_json(*this); }
DecoderLayerOptions DecoderLayerOptions::from_json(std::string_view text) {
  return nn::from_json<DecoderLayerOptions>(text);
}

std::string LongNetConfig::to_json() const { return nn::to_json(*this); }
LongNetConfig LongNetConfig::from_json(std::string_view text) { return nn::from_json<LongNetConfig>(text); }

std::string LongNetLMConfig::to_json() const { return nn::to_json(*this); }
LongNetLMConfig LongNetLMConfig::from_json(std::string_view text) { return nn::from_json<LongNetLMConfig>(text); }

}  // namespace longstride
