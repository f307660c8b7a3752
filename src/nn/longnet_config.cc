// LongNetLMConfig: defaults, checks, JSON. Called by LongNetLM, checkpoints and the program.
#include <torch/torch.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "longstride/nn/longnet_lm.h"
#include "nn/require.h"

namespace longstride {
namespace {

using Json = nlohmann::ordered_json;

// Calls visit(name, field) for every field that is a plain number, bool, string or list; the one list of them.
template <class Config, class Visitor>
void visit_plain_fields(Config& c, Visitor&& visit) {
  visit("vocab", c.vocab);
  visit("dim", c.dim);
  visit("layers", c.layers);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("dim_feedforward", c.dim_feedforward);
  visit("segment_lengths", c.segment_lengths);
  visit("dilation_rates", c.dilation_rates);
  visit("rope_base", c.rope_base);
  visit("xpos_scale_base", c.xpos_scale_base);
  visit("max_len", c.max_len);
  visit("dropout", c.dropout);
  visit("attention_dropout", c.attention_dropout);
  visit("activation", c.activation);
  visit("fused_qkv", c.fused_qkv);
  visit("qk_norm", c.qk_norm);
  visit("tied_head", c.tied_head);
  visit("layer_norm_eps", c.layer_norm_eps);
  visit("gamma_init", c.gamma_init);
  visit("activation_checkpointing", c.activation_checkpointing);
}

[[noreturn]] void refuse_type(const std::string& key, const char* expected, const Json& value) {
  core::refuse(key, std::string("must be ") + expected, value.dump());
}

void read(const std::string& key, const Json& value, int64_t& field) {
  if (!value.is_number_integer()) refuse_type(key, "an integer", value);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    refuse_type(key, "an integer below 2^63", value);
  }
  field = value.get<int64_t>();
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
  if (!value.is_array()) refuse_type(key, "a list of integers", value);
  field.clear();
  for (const Json& entry : value) {
    const std::string place = fmt::format("{}[{}]", key, field.size());
    read(place, entry, field.emplace_back());
  }
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

std::string LongNetLMConfig::to_json() const {
  Json json;
  visit_plain_fields(*this, [&](const char* key, const auto& field) { json[key] = field; });
  json["head_offset"] = name(head_offset);
  json["mixing"] = name(mixing);
  json["positions"] = name(positions);
  return json.dump(2);
}

LongNetLMConfig LongNetLMConfig::from_json(std::string_view text) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& e) {
    core::refuse("config", "must be JSON", e.what());
  }
  if (!json.is_object()) core::refuse("config", "must be a JSON object", json.type_name());
  LongNetLMConfig config;
  std::vector<std::string> known;
  const auto take = [&](const char* key, auto&& use) {
    known.emplace_back(key);
    if (const auto found = json.find(key); found != json.end()) use(*found);
  };
  visit_plain_fields(
      config, [&](const char* key, auto& field) { take(key, [&](const Json& value) { read(key, value, field); }); });
  std::string word;
  const auto take_word = [&](const char* key, auto&& use) {
    take(key, [&](const Json& value) {
      read(key, value, word);
      use();
    });
  };
  take_word("head_offset", [&] { config.head_offset = head_offset_from_name(word); });
  take_word("mixing", [&] { config.mixing = mixing_from_name(word); });
  take_word("positions", [&] { config.positions = positions_from_name(word); });
  for (const auto& [key, value] : json.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) core::refuse_unknown("config key", key, known);
  }
  config.validate();
  return config;
}

}  // namespace longstride
