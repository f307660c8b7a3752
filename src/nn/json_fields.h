// Options and configs as JSON: the list of fields in a struct (longstride/fields.h) serves to_json(), from_json() and
// whoever documents them. Where a caller wants other fields than all of them it gives a callable in place of that list.
// Called by the options of this room, by the factory and by the settings and checkpoints of a run.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/json.h"
#include "longstride/nn/learned_blocks.h"
#include "longstride/nn/longnet.h"
#include "longstride/nn/positions.h"
#include "longstride/pattern.h"
#include "longstride/pattern/blocks.h"

namespace longstride::nn {

using core::Json;

// A value of the wrong kind, or a word that is unknown, is an Error that names `key`.
void read(const std::string& key, const Json& value, int64_t& field);
void read(const std::string& key, const Json& value, uint64_t& field);
void read(const std::string& key, const Json& value, double& field);
void read(const std::string& key, const Json& value, bool& field);
void read(const std::string& key, const Json& value, std::string& field);
void read(const std::string& key, const Json& value, std::vector<int64_t>& field);
void read(const std::string& key, const Json& value, std::vector<double>& field);
void read(const std::string& key, const Json& value, std::vector<std::string>& field);
void read(const std::string& key, const Json& value, HeadOffset& field);
void read(const std::string& key, const Json& value, Mixing& field);
void read(const std::string& key, const Json& value, Padding& field);
void read(const std::string& key, const Json& value, Positions& field);
void read(const std::string& key, const Json& value, LongNetForm& field);
void read(const std::string& key, const Json& value, std::vector<BlockPattern>& field);
void read(const std::string& key, const Json& value, std::vector<HierarchyLevel>& field);
void read(const std::string& key, const Json& value, LearnedBlocks& field);

// null is unset.
template <class T>
void read(const std::string& key, const Json& value, std::optional<T>& field) {
  if (value.is_null()) {
    field.reset();
    return;
  }
  T set{};
  read(key, value, set);
  field = std::move(set);
}

template <class T>
Json written(const T& field) {
  if constexpr (std::is_enum_v<T>) {
    return name(field);
  } else {
    return field;
  }
}

// As a pattern's JSON has them (pattern/json.h).
Json written(const std::vector<BlockPattern>& field);
Json written(const std::vector<HierarchyLevel>& field);
Json written(const LearnedBlocks& field);

template <class T>
Json written(const std::optional<T>& field) {
  return field ? written(*field) : Json();
}

// Throws Error: "<what> must be JSON ..." or "... a JSON object".
Json parse_object(std::string_view what, std::string_view text);
// Throws Error: "unknown <what> 'x'; one of [...]; did you mean 'y'?".
void refuse_unknown_keys(std::string_view what, const Json& object, const std::vector<std::string>& known);
// Text of a JSON value, indented, or on one line (-1); bytes that are no UTF-8 are replaced.
std::string text_of(const Json& value, int indent = 2);

// The fields of a struct, as a callable.
inline constexpr auto all_fields = [](auto& options, auto&& visit) {
  std::remove_cvref_t<decltype(options)>::fields(options, visit);
};

template <class Options>
Json json_of(const Options& options) {
  Json json = Json::object();
  Options::fields(options, [&](const char* key, const auto& field) { json[key] = written(field); });
  return json;
}

// `options` with the fields that `json` gives; any other key is an Error that calls it `what`. Nothing is validated.
template <class Options, class Fields = decltype(all_fields)>
Options options_of(std::string_view what, const Json& json, Options options, const Fields& fields = all_fields) {
  std::vector<std::string> known;
  fields(std::as_const(options), [&](const char* key, const auto&) { known.emplace_back(key); });
  refuse_unknown_keys(what, json, known);
  fields(options, [&](const char* key, auto& field) {
    if (const auto found = json.find(key); found != json.end()) read(key, *found, field);
  });
  return options;
}

template <class Options>
std::string to_json(const Options& options) {
  return text_of(json_of(options));
}

// Missing fields have their defaults; the result is validated.
template <class Options>
Options from_json(std::string_view text) {
  const Options options = options_of("config key", parse_object("config", text), Options());
  options.validate();
  return options;
}

}  // namespace longstride::nn
