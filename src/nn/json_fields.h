// Options and configs as JSON: one list of fields a struct serves to_json(), from_json() and whoever documents them.
// A list of fields is a callable that calls visit(name, field) for every field of the struct it is given. Called by the
// config_json.cc of this room and by the factory.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
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
void read(const std::string& key, const Json& value, double& field);
void read(const std::string& key, const Json& value, bool& field);
void read(const std::string& key, const Json& value, std::string& field);
void read(const std::string& key, const Json& value, std::vector<int64_t>& field);
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
  field.reset();
  if (!value.is_null()) read(key, value, field.emplace());
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

template <class Config, class Fields>
Json json_of(const Config& config, const Fields& fields) {
  Json json = Json::object();
  fields(config, [&](const char* key, const auto& field) { json[key] = written(field); });
  return json;
}

template <class Config, class Fields>
std::string to_json(const Config& config, const Fields& fields) {
  return text_of(json_of(config, fields));
}

// `config` with the fields that `json` gives; any other key is an Error that calls it `what`. Nothing is validated.
template <class Config, class Fields>
Config config_of(std::string_view what, const Json& json, Config config, const Fields& fields) {
  std::vector<std::string> known;
  fields(config, [&](const char* key, auto&) { known.emplace_back(key); });
  refuse_unknown_keys(what, json, known);
  fields(config, [&](const char* key, auto& field) {
    if (const auto found = json.find(key); found != json.end()) read(key, *found, field);
  });
  return config;
}

// Missing fields have their defaults; the result is validated.
template <class Config, class Fields>
Config from_json(std::string_view text, const Fields& fields) {
  const Config config = config_of("config key", parse_object("config", text), Config(), fields);
  config.validate();
  return config;
}

}  // namespace longstride::nn
