// Values of every rule of blocks there is, made from its own list of fields: a rule that is added is among them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "longstride/error.h"
#include "longstride/pattern.h"

namespace longstride::test {

// The block size of the values of a rule that takes any.
inline constexpr int64_t kBlockSize = 4;

// Values that a field of each type takes in turn. A field of another type does not compile until it has some.
inline std::vector<int64_t> tried(const int64_t&) { return {4, 8, 13}; }
inline std::vector<double> tried(const double&) { return {0.125, 0.25}; }
inline std::vector<std::vector<int64_t>> tried(const std::vector<int64_t>&) { return {{1}, {2}, {1, 3}}; }
inline std::vector<std::vector<HierarchyLevel>> tried(const std::vector<HierarchyLevel>&) {
  return {{{4, 8}}, {{4, std::nullopt}}, {{8, 8}}, {{4, 8}, {8, std::nullopt}}};
}
inline std::vector<std::vector<Block>> tried(const std::vector<Block>&) {
  return {{}, {{-1, -1, 0, 0}}, {{-1, -1, 0, 1}}, {{-1, 1, 0, 0}}, {{1, -1, 0, 0}}, {{-1, -1, 1, 0}}};
}
template <class T>
std::vector<std::optional<T>> tried(const std::optional<T>&) {
  std::vector<std::optional<T>> values = {std::nullopt};
  for (const T& value : tried(T())) values.emplace_back(value);
  return values;
}

// Every combination of the values that are tried, but those that are refused.
template <class Rule>
std::vector<BlockPattern> valid_values() {
  std::vector<BlockPattern> valid;
  size_t combinations = 1;
  for (size_t n = 0; n < combinations; ++n) {
    Rule rule;
    size_t left = n;
    combinations = 1;
    Rule::fields(rule, [&](const char*, auto& field, const FieldNote&) {
      const auto values = tried(field);
      field = values[left % values.size()];
      left /= values.size();
      combinations *= values.size();
    });
    try {
      valid.emplace_back(fixed_block_size<Rule>().value_or(kBlockSize), rule);
    } catch (const Error&) {
    }
  }
  return valid;
}

inline std::vector<BlockPattern> values_of_every_rule() {
  std::vector<BlockPattern> all;
  for_each_rule([&]<class Rule>(const Rule&) {
    for (const BlockPattern& value : valid_values<Rule>()) all.push_back(value);
  });
  return all;
}

}  // namespace longstride::test
