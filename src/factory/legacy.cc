// The legacy constructors: arguments are bound to the parameters of a table, and those become options here. See
// legacy.h.
#include "longstride/factory/legacy.h"

#include <fmt/format.h>
#include <torch/torch.h>

#include <algorithm>

#include "core/refuse.h"
#include "factory/legacy_tables.h"
#include "factory/named_values.h"
#include "factory/tensor_options.h"
#include "longstride/factory/create.h"
#include "nn/option_fields.h"

namespace longstride {
namespace {

using factory::LegacyClass;
using factory::LegacyKind;
using factory::LegacyParameter;
using nn::Json;

const LegacyClass& class_named(const std::string& name, LegacyKind kind) {
  std::vector<std::string> names;
  for (const LegacyClass& c : factory::legacy_classes()) {
    if (c.kind != kind) continue;
    if (c.name == name) return c;
    names.push_back(c.name);
  }
  core::refuse_unknown("class", name, names);
}

// What was given to each parameter of the class.
NamedOptions bound(const LegacyClass& c, const LegacyArguments& arguments) {
  std::vector<std::string> names;
  for (const auto* list : {&c.positional, &c.keywords}) {
    for (const LegacyParameter& p : *list) names.push_back(p.name);
  }
  if (arguments.positional.size() > c.positional.size()) {
    core::refuse(c.name, fmt::format("takes at most {} positional arguments", c.positional.size()),
                 std::to_string(arguments.positional.size()));
  }
  NamedOptions given;
  for (size_t i = 0; i < arguments.positional.size(); ++i) given[c.positional[i].name] = arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      core::refuse_unknown(fmt::format("argument of {}", c.name), name, names);
    }
    if (given.contains(name)) {
      core::refuse(name, "must be given once", "by position and by name", "leave one of them out");
    }
    given[name] = value;
  }
  return given;
}

void refuse_unless_standard(const LegacyParameter& p, const OptionValue& value) {
  // As JSON, so that 16 is 16.0.
  if (value.is_unset() || factory::json_of(value) == factory::json_of(p.standard)) return;
  core::refuse(p.name, fmt::format("must be its default {}, for it has no counterpart", p.standard.text()),
               value.text(), p.instead);
}

// Options here, as JSON.
Json translated(const LegacyClass& c, const LegacyArguments& arguments) {
  const NamedOptions given = bound(c, arguments);
  Json options = Json::object();
  for (const auto* list : {&c.positional, &c.keywords}) {
    for (const LegacyParameter& p : *list) {
      const auto found = given.find(p.name);
      const bool is_given = found != given.end() && !found->second.is_unset();
      if (p.required && !is_given) core::refuse(c.name, fmt::format("needs {}", p.name), "none");
      if (is_given && p.options.empty()) refuse_unless_standard(p, found->second);
      const OptionValue& value = is_given ? found->second : p.standard;
      if (value.is_unset()) continue;
      for (const std::string& option : p.options) {
        if (options.contains(option)) core::refuse(p.name, "must be given once", "under two names");
        options[option] = factory::json_of(value);
      }
    }
  }
  return options;
}

// What the known library computes, where that is right: one group a head, by its number, and the mean over the groups.
void add_mixing(Json& options) {
  options["head_offset"] = name(HeadOffset::kGroup);
  options["mixing"] = name(Mixing::kHeadPartition);
  options["average"] = true;
}

// Takes a key out of an object.
Json taken(Json& object, const char* key) {
  const Json value = object.value(key, Json());
  object.erase(key);
  return value;
}

// SparsePatternConfig's words for SparseAttentionConfig's. There sparsity_ratio is the share of blocks that is
// computed, segment_lengths have no part in the result, and the distances of dilated_sparse are dilation_rates.
void add_pattern(Json& options) {
  taken(options, "segment_lengths");
  const Json rates = taken(options, "dilation_rates");
  Json config = taken(options, "sparse_config");
  if (config.is_null()) config = Json::object();
  if (!config.is_object()) core::refuse("sparse_config", "must be an object", nn::text_of(config, -1));
  nn::refuse_unknown_keys("key of sparse_config", config,
                          {"pattern_type", "sparsity_ratio", "block_size", "local_window_size", "global_tokens"});
  if (Json ratio = taken(options, "sparsity_ratio"); !ratio.is_null()) {
    if (config.contains("sparsity_ratio")) core::refuse("sparsity_ratio", "must be given once", "twice");
    config["sparsity_ratio"] = ratio;
  }
  std::string pattern = "dilated_sparse";
  if (config.contains("pattern_type")) nn::read("pattern_type", config["pattern_type"], pattern);
  options["pattern"] = pattern;
  options["block_size"] = config.value("block_size", Json(128));
  const Json ratio = config.value("sparsity_ratio", Json());
  const Json window = config.value("local_window_size", Json());
  if (!ratio.is_null()) options["density"] = ratio;
  if (!window.is_null()) options["window"] = window;
  if (config.contains("global_tokens")) options["global_tokens"] = config["global_tokens"];
  if (pattern == "dilated_sparse") options["rates"] = rates;
  if (pattern == "local_window" && ratio.is_null() && window.is_null()) options["window"] = 512;
  if (pattern == "dilated_sparse" && ratio.is_null()) options["density"] = 0.1;
}

// The options of a class that the factory builds.
NamedOptions factory_options(const LegacyClass& c, const LegacyArguments& arguments) {
  Json options = translated(c, arguments);
  if (std::string_view(c.type).starts_with("block_sparse")) {
    add_pattern(options);
  } else {
    add_mixing(options);
  }
  return factory::options_of(options);
}

struct TensorPlace {
  at::Device device;
  at::ScalarType dtype;
};

TensorPlace taken_place(Json& options) {
  std::string device = "cpu", dtype = "float32";
  if (const Json value = taken(options, "device"); !value.is_null()) nn::read("device", value, device);
  if (const Json value = taken(options, "dtype"); !value.is_null()) nn::read("dtype", value, dtype);
  return {factory::device_of(device), factory::dtype_of(dtype)};
}

template <class Holder, class Config, class Fields>
Holder built(const char* class_name, LegacyKind kind, const LegacyArguments& arguments, const Fields& fields) {
  Json options = translated(class_named(class_name, kind), arguments);
  const TensorPlace place = taken_place(options);
  add_mixing(options);
  options["fused_qkv"] = false;  // three projections, as there
  Holder module(nn::config_of("option", options, Config(), fields));
  module->to(place.device, place.dtype);
  return module;
}

}  // namespace

std::vector<std::string> legacy_class_names() {
  std::vector<std::string> names;
  for (const LegacyClass& c : factory::legacy_classes()) names.push_back(c.name);
  return names;
}

DilatedAttention from_legacy_attention(const std::string& class_name, const LegacyArguments& arguments) {
  const LegacyClass& c = class_named(class_name, LegacyKind::kAttention);
  return create_dilated_attention(c.type, factory_options(c, arguments)).module;
}

MultiheadDilatedAttention from_legacy_multihead(const std::string& class_name, const LegacyArguments& arguments) {
  const LegacyClass& c = class_named(class_name, LegacyKind::kMultihead);
  NamedOptions options = factory_options(c, arguments);
  options["fused_qkv"] = class_name != "MultiheadDilatedAttention";
  return create_multihead_dilated_attention(c.type, options).module;
}

TransformerLayer from_legacy_encoder_layer(const LegacyArguments& arguments) {
  return built<TransformerLayer, TransformerLayerOptions>("DilatedTransformerEncoderLayer", LegacyKind::kEncoderLayer,
                                                          arguments, nn::transformer_layer_fields);
}

DilatedTransformerDecoderLayer from_legacy_decoder_layer(const LegacyArguments& arguments) {
  return built<DilatedTransformerDecoderLayer, DecoderLayerOptions>(
      "DilatedTransformerDecoderLayer", LegacyKind::kDecoderLayer, arguments, nn::decoder_layer_fields);
}

LongNet from_legacy_longnet(const LegacyArguments& arguments) {
  return built<LongNet, LongNetConfig>("LongNet", LegacyKind::kLongNet, arguments, nn::longnet_fields);
}

}  // namespace longstride
