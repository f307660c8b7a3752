// The legacy constructors: arguments are bound to the parameters of a table, and those become options here. See
// legacy.h.
#include "longstride/factory/legacy.h"

#include <ATen/Functions.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/refuse.h"
#include "factory/legacy_tables.h"
#include "factory/named_values.h"
#include "longstride/factory/create.h"
#include "nn/json_fields.h"

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
                 arguments.positional.size());
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

// The object under a key, {} if there is none; unknown keys are refused.
Json taken_object(Json& options, const char* key, const std::vector<std::string>& known) {
  Json object = taken(options, key);
  if (object.is_null()) object = Json::object();
  if (!object.is_object()) core::refuse(key, "must be an object", nn::text_of(object, -1));
  nn::refuse_unknown_keys(fmt::format("key of {}", key), object, known);
  return object;
}

// SparsePatternConfig's words for SparseAttentionConfig's. There sparsity_ratio is the share of blocks that is
// computed, segment_lengths have no part in the result, and the distances of dilated_sparse are dilation_rates.
void add_pattern(Json& options) {
  taken(options, "segment_lengths");
  const Json rates = taken(options, "dilation_rates");
  Json config = taken_object(options, "sparse_config",
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

// HierarchicalConfig's levels. There a stride or a window is rounded down to whole blocks of the one block_size, at
// least one, and window_size -1 is everything; a level's own block_size has no part in the result.
void add_levels(Json& options) {
  const Json config = taken_object(options, "hierarchical_config", {"level_configs"});
  Json sparse = taken_object(options, "sparse_config", {"pattern_type", "block_size"});
  if (sparse.value("pattern_type", Json("hierarchical")) != "hierarchical") {
    core::refuse("pattern_type", "must be hierarchical in BlockSparseHierarchical", sparse["pattern_type"].dump());
  }
  options.erase("segment_lengths");
  options.erase("dilation_rates");
  int64_t block = 64;
  if (sparse.contains("block_size")) nn::read("block_size", sparse["block_size"], block);
  if (block <= 0) core::refuse("block_size", "must be positive", block);
  options["pattern"] = "hierarchical";
  options["block_size"] = block;
  if (!config.contains("level_configs")) return;
  if (!config["level_configs"].is_array()) core::refuse("level_configs", "must be a list", "something else");
  const auto whole_blocks = [&](int64_t tokens) { return std::max<int64_t>(1, tokens / block) * block; };
  options["levels"] = Json::array();
  for (Json level : config["level_configs"]) {
    nn::refuse_unknown_keys("key of level_configs", level, {"stride", "window_size", "block_size"});
    int64_t stride = 0, window = 0;
    for (const auto& [key, field] : {std::pair{"stride", &stride}, {"window_size", &window}}) {
      if (!level.contains(key)) core::refuse("level_configs", fmt::format("needs {} in every level", key), "none");
      nn::read(key, level[key], *field);
      const bool everything = field == &window && window == -1;
      if (*field <= 0 && !everything) core::refuse(key, "must be positive", *field);
    }
    Json here = {{"stride", whole_blocks(stride)}};
    if (window == -1) {
      here["global"] = true;
    } else {
      here["window"] = whole_blocks(window);
    }
    options["levels"].push_back(here);
  }
}

// AdaptiveConfig's words for the pattern "learned"; there sparsity is what is left out. Its other fields have no
// counterpart: the noise's temperature is the caller's to lower, the loss's weight too, and a block is computed or not.
void add_scorer(Json& options) {
  const std::vector<LegacyParameter> fields = {
      {"base_sparsity", {"sparsity_ratio"}, 0.9},
      {"temperature", {"temperature"}, 1.0},
      {"hidden_dim", {"hidden"}, 128},
      {"learnable_temperature", {}, true, false, "lower it with the scorer's set_temperature()"},
      {"min_temperature", {}, 0.1, false, "lower it with the scorer's set_temperature()"},
      {"num_layers", {}, 2, false, "a scorer has two layers"},
      {"share_across_heads", {}, false, false, "every KV head has a scorer"},
      {"sparsity_reg_weight", {}, 0.01, false, "weight density_loss where you add it to the loss"},
      {"hard_sparsity", {}, false, false, "a block is computed or not; leave it out"},
  };
  std::vector<std::string> known;
  for (const LegacyParameter& field : fields) known.push_back(field.name);
  const Json config = taken_object(options, "adaptive_config", known);
  options.erase("segment_lengths");
  options.erase("dilation_rates");
  for (const LegacyParameter& field : fields) {
    const bool given = config.contains(field.name);
    if (given && field.options.empty())
      refuse_unless_standard(field, factory::option_of(field.name, config[field.name]));
    for (const std::string& option : field.options) {
      options[option] = given ? config[field.name] : factory::json_of(field.standard);
    }
  }
}

// The options of a class that the factory builds.
NamedOptions factory_options(const LegacyClass& c, const LegacyArguments& arguments) {
  Json options = translated(c, arguments);
  if (c.name == "BlockSparseHierarchical") {
    add_levels(options);
  } else if (c.name == "BlockSparseAdaptive") {
    add_scorer(options);
  } else if (std::string_view(c.type).starts_with("block_sparse")) {
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
  return {factory::place_of(device), factory::dtype_of(dtype)};
}

template <class Holder, class Config>
Holder built(const char* class_name, LegacyKind kind, const LegacyArguments& arguments) {
  Json options = translated(class_named(class_name, kind), arguments);
  const TensorPlace place = taken_place(options);
  add_mixing(options);
  options["fused_qkv"] = false;  // three projections, as there
  Holder module(nn::options_of("option", options, Config()));
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
                                                          arguments);
}

DilatedTransformerDecoderLayer from_legacy_decoder_layer(const LegacyArguments& arguments) {
  return built<DilatedTransformerDecoderLayer, DecoderLayerOptions>("DilatedTransformerDecoderLayer",
                                                                    LegacyKind::kDecoderLayer, arguments);
}

LongNet from_legacy_longnet(const LegacyArguments& arguments) {
  return built<LongNet, LongNetConfig>("LongNet", LegacyKind::kLongNet, arguments);
}

}  // namespace longstride
