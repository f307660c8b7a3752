// Reads and writes patterns as JSON: every key is asked for by name, and one that nobody asks for is refused with the
// nearest that is known.
#include "longstride/pattern/json.h"

#include <fmt/format.h>

#include "core/json.h"
#include "core/refuse.h"

namespace longstride {
namespace {

using core::Json;
using core::shown;

// One object of the text. Fields are taken one by one; done() refuses the others.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) core::refuse(where_.empty() ? "pattern" : where_, "must be an object", shown(object));
  }

  std::string path(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }

  const Json* find(const std::string& key) {
    known_.push_back(key);
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  template <class T>
  std::optional<T> optional(const std::string& key) {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    return as<T>(*value, path(key));
  }

  template <class T>
  T required(const std::string& key) {
    const std::optional<T> value = optional<T>(key);
    if (!value) core::refuse(path(key), "must be given", "none");
    return *value;
  }

  void done() const {
    for (const auto& [key, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
        core::refuse_unknown(where_.empty() ? "key" : fmt::format("key of {}", where_), key, known_);
      }
    }
  }

  template <class T>
  static T as(const Json& value, const std::string& where) = delete;

 private:
  const Json& object_;
  const std::string where_;
  std::vector<std::string> known_;
};

template <>
int64_t Fields::as<int64_t>(const Json& value, const std::string& where) {
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX)) {
    core::refuse(where, "must be an integer", shown(value));
  }
  return value.get<int64_t>();
}
template <>
double Fields::as<double>(const Json& value, const std::string& where) {
  if (!value.is_number()) core::refuse(where, "must be a number", shown(value));
  return value.get<double>();
}
template <>
bool Fields::as<bool>(const Json& value, const std::string& where) {
  if (!value.is_boolean()) core::refuse(where, "must be true or false", shown(value));
  return value.get<bool>();
}
template <>
std::string Fields::as<std::string>(const Json& value, const std::string& where) {
  if (!value.is_string()) core::refuse(where, "must be a string", shown(value));
  return value.get<std::string>();
}
template <>
std::vector<int64_t> Fields::as<std::vector<int64_t>>(const Json& value, const std::string& where) {
  if (!value.is_array()) core::refuse(where, "must be a list of integers", shown(value));
  std::vector<int64_t> list;
  for (size_t i = 0; i < value.size(); ++i) list.push_back(as<int64_t>(value[i], fmt::format("{}[{}]", where, i)));
  return list;
}

std::optional<double> take_density(Fields& f) {
  std::optional<double> density = f.optional<double>("density");
  const std::optional<double> sparsity = f.optional<double>("sparsity_ratio");
  if (density && sparsity) {
    core::refuse(f.path("density"), "cannot be given together with sparsity_ratio", "both", "give one of them");
  }
  if (!sparsity) return density;
  if (!(*sparsity > 0 && *sparsity < 1)) core::refuse(f.path("sparsity_ratio"), "must be in (0, 1)", *sparsity);
  return 1 - *sparsity;
}

int32_t narrow(int64_t value, const std::string& where) {
  if (value < INT32_MIN || value > INT32_MAX) core::refuse(where, "must fit 32 bits", value);
  return static_cast<int32_t>(value);
}

// Blocks that stand beside the text: they serve one list that has none of its own.
struct BesideText {
  const std::vector<Block>* list = nullptr;
  bool used = false;
};

// Takes the fields of a rule.
struct RuleReader {
  Fields& f;
  BesideText& beside;

  template <class T>
  std::optional<T> value(const char* key) const {
    if constexpr (std::is_same_v<T, double>) {
      if (std::string_view(key) == "density") return take_density(f);
    }
    return f.optional<T>(key);
  }

  template <class T>
  void operator()(const char* key, std::optional<T>& field, const FieldNote&) const {
    field = value<T>(key);
  }

  template <class T>
  void operator()(const char* key, T& field, const FieldNote& note) const {
    if (std::optional<T> given = value<T>(key)) {
      field = std::move(*given);
    } else if (!note.has_default) {
      const bool is_density = std::string_view(key) == "density";
      core::refuse(f.path(key), "must be given", "none", is_density ? "or sparsity_ratio = 1 - density" : "");
    }
  }

  void operator()(const char* key, std::vector<Block>& field, const FieldNote&) const {
    const Json* rows = f.find(key);
    if (!rows) {
      if (!beside.list || beside.used) {
        core::refuse(f.path(key), "must be given", "none",
                     beside.list ? "the list beside the text serves one pattern" : "give them here or beside the text");
      }
      beside.used = true;
      field = *beside.list;
      return;
    }
    if (!rows->is_array()) core::refuse(f.path(key), "must be a list", shown(*rows));
    for (size_t i = 0; i < rows->size(); ++i) {
      const std::string where = fmt::format("{}[{}]", f.path(key), i);
      const auto row = Fields::as<std::vector<int64_t>>((*rows)[i], where);
      if (row.size() != 4) {
        core::refuse(where, "must be [batch row or -1, KV head or -1, query block, key block]", shown((*rows)[i]));
      }
      field.push_back({narrow(row[0], where), narrow(row[1], where), narrow(row[2], where), narrow(row[3], where)});
    }
  }

  void operator()(const char* key, std::vector<HierarchyLevel>& field, const FieldNote&) const {
    const Json* levels = f.find(key);
    if (!levels || !levels->is_array()) {
      core::refuse(f.path(key), "must be a list of {stride, window} or {stride, global: true}",
                   levels ? shown(*levels) : "none");
    }
    for (size_t i = 0; i < levels->size(); ++i) {
      Fields level((*levels)[i], fmt::format("{}[{}]", f.path(key), i));
      HierarchyLevel one{.stride = level.required<int64_t>("stride"), .window = level.optional<int64_t>("window")};
      const bool global = level.optional<bool>("global").value_or(false);
      if (global == one.window.has_value()) {
        core::refuse(level.path("window"), "must be given, or \"global\": true", global ? "both" : "neither");
      }
      level.done();
      field.push_back(one);
    }
  }
};

BlockPattern take_block_pattern(const Json& json, size_t index, BesideText& beside) {
  Fields f(json, fmt::format("blocks[{}]", index));
  const std::string name = f.required<std::string>("pattern");
  int64_t block_size = 1;
  std::optional<BlockRule> rule;
  for_each_rule([&]<class Rule>(Rule one) {
    if (name != one.kName) return;
    constexpr std::optional<int64_t> only = fixed_block_size<Rule>();
    block_size = only ? f.optional<int64_t>("block_size").value_or(*only) : f.required<int64_t>("block_size");
    one.fields(one, RuleReader{f, beside});
    rule = std::move(one);
  });
  if (!rule) core::refuse_unknown("pattern", name, block_pattern_names());
  f.done();
  return BlockPattern(block_size, std::move(*rule));
}

Pattern take_dilated(const Json& json, bool causal) {
  Fields f(json, "dilated");
  DilatedOptions options{.causal = causal};
  const auto segments = f.required<std::vector<int64_t>>("segment_lengths");
  const auto rates = f.required<std::vector<int64_t>>("dilation_rates");
  if (const auto x = f.optional<std::string>("head_offset")) options.head_offset = head_offset_from_name(*x);
  options.offsets = f.optional<std::vector<int64_t>>("offsets");
  if (const auto x = f.optional<std::string>("mixing")) options.mixing = mixing_from_name(*x);
  options.average = f.optional<bool>("average").value_or(false);
  if (const auto x = f.optional<std::string>("padding")) options.padding = padding_from_name(*x);
  f.done();
  return Pattern::dilated(segments, rates, options);
}

// Writes the fields of a rule; a std::optional that is unset is left out.
struct RuleWriter {
  Json& to;

  template <class T>
  void operator()(const char* key, const T& field, const FieldNote&) const {
    to[key] = field;
  }
  template <class T>
  void operator()(const char* key, const std::optional<T>& field, const FieldNote&) const {
    if (field) to[key] = *field;
  }
  void operator()(const char* key, const std::vector<HierarchyLevel>& field, const FieldNote&) const {
    to[key] = Json::array();
    for (const HierarchyLevel& level : field) {
      Json one = {{"stride", level.stride}};
      if (level.window) {
        one["window"] = *level.window;
      } else {
        one["global"] = true;
      }
      to[key].push_back(one);
    }
  }
  void operator()(const char* key, const std::vector<Block>& field, const FieldNote&) const {
    to[key] = Json::array();
    for (const Block& b : field) to[key].push_back(Json::array({b.batch_row, b.kv_head, b.query_block, b.key_block}));
  }
};

}  // namespace

Pattern pattern_from_json(const std::string& text, const std::optional<std::vector<Block>>& list) {
  const Json json = core::parse_json("pattern", text);
  Fields f(json, "");
  const bool causal = f.optional<bool>("causal").value_or(false);
  const Json* dilated = f.find("dilated");
  const Json* blocks = f.find("blocks");
  f.done();
  std::vector<BlockPattern> patterns;
  BesideText beside{list ? &*list : nullptr};
  if (blocks) {
    if (!blocks->is_array()) core::refuse("blocks", "must be a list of block patterns", shown(*blocks));
    for (size_t i = 0; i < blocks->size(); ++i) {
      patterns.push_back(take_block_pattern((*blocks)[i], i, beside));
    }
  }
  if (list && !beside.used) {
    core::refuse("pattern", "must have a \"list\" without blocks of its own when blocks are given beside it", text,
                 "leave the blocks out, or add {\"pattern\": \"list\", \"block_size\": ...}");
  }
  if (dilated) return take_dilated(*dilated, causal).with_blocks(patterns);
  if (patterns.empty()) core::refuse("pattern", "must have \"dilated\" groups or \"blocks\"", text);
  return Pattern::block_sparse(patterns, causal);
}

namespace {

Json written(const Pattern& pattern, bool with_lists) {
  Json json;
  json["causal"] = pattern.causal();
  if (!pattern.groups().empty()) {
    Json& dilated = json["dilated"];
    for (const Group& group : pattern.groups()) {
      dilated["segment_lengths"].push_back(group.segment);
      dilated["dilation_rates"].push_back(group.rate);
    }
    const DilatedOptions& o = pattern.options();
    const DilatedOptions defaults;
    if (o.head_offset != defaults.head_offset) dilated["head_offset"] = name(o.head_offset);
    if (o.offsets) dilated["offsets"] = *o.offsets;
    if (o.mixing != defaults.mixing) dilated["mixing"] = name(o.mixing);
    if (o.average != defaults.average) dilated["average"] = o.average;
    if (o.padding != defaults.padding) dilated["padding"] = name(o.padding);
  }
  for (const BlockPattern& block : pattern.blocks()) {
    Json one = {{"pattern", block.name()}};
    const auto only = [](const auto& rule) { return fixed_block_size<std::remove_cvref_t<decltype(rule)>>(); };
    if (!std::visit(only, block.rule())) one["block_size"] = block.block_size();
    if (with_lists || !block.list()) {
      std::visit([&](const auto& rule) { rule.fields(rule, RuleWriter{one}); }, block.rule());
    }
    json["blocks"].push_back(one);
  }
  return json;
}

}  // namespace

std::string to_json(const Pattern& pattern) { return written(pattern, true).dump(); }

std::string to_json_beside_list(const Pattern& pattern) { return written(pattern, false).dump(); }

}  // namespace longstride
