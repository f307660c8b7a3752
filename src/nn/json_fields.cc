// Reading single JSON values into fields, and to_json() and from_json() of every options struct of this room.
#include "nn/json_fields.h"

#include <algorithm>

#include "core/refuse.h"
#include "longstride/nn/longnet_lm.h"
#include "longstride/pattern/json.h"

namespace longstride {
namespace nn {
namespace {

[[noreturn]] void refuse_type(const std::string& key, const char* expected, const Json& value) {
  core::refuse(key, std::string("must be ") + expected, core::shown(value));
}

template <class Enum, class FromName>
void read_word(const std::string& key, const Json& value, Enum& field, FromName from_name) {
  std::string word;
  read(key, value, word);
  field = from_name(word);
}

std::vector<BlockPattern> blocks_of(const Json& list) {
  const Json pattern = {{"blocks", list}};
  return pattern_from_json(text_of(pattern, -1)).blocks();
}

// Entry by entry, each under its place in the list.
template <class T>
void read_list(const std::string& key, const Json& value, std::vector<T>& field, const char* expected) {
  if (!value.is_array()) refuse_type(key, expected, value);
  field.clear();
  for (const Json& entry : value) {
    const std::string place = fmt::format("{}[{}]", key, field.size());
    read(place, entry, field.emplace_back());
  }
}

}  // namespace

void read(const std::string& key, const Json& value, int64_t& field) {
  if (!value.is_number_integer()) refuse_type(key, "an integer", value);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    refuse_type(key, "an integer below 2^63", value);
  }
  field = value.get<int64_t>();
}

void read(const std::string& key, const Json& value, uint64_t& field) {
  if (!value.is_number_unsigned()) refuse_type(key, "an integer from 0 to 2^64 - 1", value);
  field = value.get<uint64_t>();
}

void read(const std::string& key, const Json& value, double& field) {
  if (!value.is_number()) refuse_type(key, "a number", value);
  field = value.get<double>();
}

void read(const std::string& key, const Json& value, bool& field) {
  if (!value.is_boolean()) refuse_type(key, "true or false", value);
  field = value.get<bool>();
}

void read(const std::string& key, const Json& value, std::string& field) {
  if (!value.is_string()) refuse_type(key, "a string", value);
  field = value.get<std::string>();
}

void read(const std::string& key, const Json& value, std::vector<int64_t>& field) {
  read_list(key, value, field, "a list of integers");
}

void read(const std::string& key, const Json& value, std::vector<double>& field) {
  read_list(key, value, field, "a list of numbers");
}

void read(const std::string& key, const Json& value, std::vector<std::string>& field) {
  const auto is_word = [](const Json& entry) { return entry.is_string(); };
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_word))
    refuse_type(key, "a list of words", value);
  field = value.get<std::vector<std::string>>();
}

void read(const std::string& key, const Json& value, HeadOffset& field) {
  read_word(key, value, field, head_offset_from_name);
}

void read(const std::string& key, const Json& value, Mixing& field) { read_word(key, value, field, mixing_from_name); }

void read(const std::string& key, const Json& value, Padding& field) {
  read_word(key, value, field, padding_from_name);
}

void read(const std::string& key, const Json& value, Positions& field) {
  read_word(key, value, field, positions_from_name);
}

void read(const std::string& key, const Json& value, LongNetForm& field) {
  read_word(key, value, field, longnet_form_from_name);
}

void read(const std::string& key, const Json& value, std::vector<BlockPattern>& field) {
  if (!value.is_array()) refuse_type(key, "a list of block patterns", value);
  field = value.empty() ? std::vector<BlockPattern>() : blocks_of(value);
}

void read(const std::string& key, const Json& value, std::vector<HierarchyLevel>& field) {
  if (!value.is_array()) refuse_type(key, "a list of {stride, window} or {stride, global: true}", value);
  const Json pattern = {{"pattern", "hierarchical"}, {"block_size", 1}, {"levels", value}};
  field = std::get<Hierarchical>(blocks_of(Json::array({pattern})).at(0).rule()).levels;
}

void read(const std::string& key, const Json& value, LearnedBlocks& field) {
  if (!value.is_object()) core::refuse(key, "must be an object", text_of(value, -1));
  field = options_of("key of " + key, value, LearnedBlocks());
}

Json written(const LearnedBlocks& field) { return json_of(field); }

Json written(const std::vector<BlockPattern>& field) {
  if (field.empty()) return Json::array();
  return core::parse_json("blocks", longstride::to_json(Pattern::block_sparse(field)))["blocks"];
}

Json written(const std::vector<HierarchyLevel>& field) {
  if (field.empty()) return Json::array();
  return written(std::vector<BlockPattern>{{1, Hierarchical{field}}})[0]["levels"];
}

Json parse_object(std::string_view what, std::string_view text) {
  Json json = core::parse_json(what, text);
  if (!json.is_object()) core::refuse(what, "must be a JSON object", json.type_name());
  return json;
}

void refuse_unknown_keys(std::string_view what, const Json& object, const std::vector<std::string>& known) {
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      core::refuse_unknown(what, key, known);
    }
  }
}

std::string text_of(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace nn

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
