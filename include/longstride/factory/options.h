// Options by name: what the factory and the legacy constructors take, and what they document. Torch-free.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "longstride/error.h"

namespace longstride {

// One value: unset, true or false, an integer, a number, a word, a list of integers, or any other JSON.
class OptionValue {
 public:
  struct Json {
    std::string text;
    bool operator==(const Json&) const = default;
  };
  using Kept = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<int64_t>, Json>;

  OptionValue() = default;  // unset: the default of whoever takes it
  OptionValue(bool value) : kept_(value) {}
  template <std::integral Integer>
  OptionValue(Integer value) : kept_(whole(value)) {}
  OptionValue(double value) : kept_(value) {}
  OptionValue(const char* value) : kept_(std::string(value)) {}
  OptionValue(std::string value) : kept_(std::move(value)) {}
  OptionValue(std::vector<int64_t> value) : kept_(std::move(value)) {}
  OptionValue(std::initializer_list<int64_t> value) : kept_(std::vector<int64_t>(value)) {}
  // Any JSON, for nested values such as block patterns. Throws Error if `text` is none.
  static OptionValue json(std::string_view text);
  // The same of text that is known to be JSON.
  static OptionValue nested(Json json) {
    OptionValue value;
    value.kept_ = std::move(json);
    return value;
  }

  const Kept& kept() const { return kept_; }
  bool is_unset() const { return std::holds_alternative<std::monostate>(kept_); }
  std::string text() const;  // as JSON
  bool operator==(const OptionValue&) const = default;

 private:
  template <class Integer>
  static int64_t whole(Integer value) {
    if (!std::in_range<int64_t>(value)) throw Error("an integer option must be below 2^63");
    return static_cast<int64_t>(value);
  }

  Kept kept_;
};

using NamedOptions = std::map<std::string, OptionValue>;

// {"causal": true, "segment_lengths": [64, 256]} as options. Throws Error if `text` is no JSON object.
NamedOptions options_from_json(std::string_view text);

// One option as documentation.
struct OptionInfo {
  std::string name;
  std::string default_value;  // as JSON; "null" is unset
  std::string meaning;        // one line, with its unit and values
};

}  // namespace longstride
