// The names of a pattern's options, as users write them.
#include <fmt/format.h>

#include <array>
#include <string>

#include "core/refuse.h"
#include "longstride/pattern.h"

namespace longstride {
namespace {

// Entry i names the enumerator of value i.
template <size_t n>
size_t index_of(const char* kind, const std::string& given, const std::array<std::string, n>& known) {
  for (size_t i = 0; i < n; ++i) {
    if (known[i] == given) return i;
  }
  core::refuse_unknown(kind, given, known);
}

// A value that was cast from any number has no name.
template <size_t n>
const char* name_of(const char* kind, size_t value, const std::array<std::string, n>& known) {
  if (value >= n) core::refuse(kind, fmt::format("must be one of its {} values", n), value);
  return known[value].c_str();
}

const std::array<std::string, 3>& head_offset_names() {
  static const std::array<std::string, 3> names = {"modulo", "block", "group"};
  return names;
}

const std::array<std::string, 2>& mixing_names() {
  static const std::array<std::string, 2> names = {"joint", "head_partition"};
  return names;
}

const std::array<std::string, 2>& padding_names() {
  static const std::array<std::string, 2> names = {"masked", "zero_keys"};
  return names;
}

}  // namespace

HeadOffset head_offset_from_name(const std::string& given) {
  return static_cast<HeadOffset>(index_of("head_offset", given, head_offset_names()));
}

Mixing mixing_from_name(const std::string& given) {
  return static_cast<Mixing>(index_of("mixing", given, mixing_names()));
}

Padding padding_from_name(const std::string& given) {
  return static_cast<Padding>(index_of("padding", given, padding_names()));
}

const char* name(HeadOffset value) { return name_of("head_offset", static_cast<size_t>(value), head_offset_names()); }
const char* name(Mixing value) { return name_of("mixing", static_cast<size_t>(value), mixing_names()); }
const char* name(Padding value) { return name_of("padding", static_cast<size_t>(value), padding_names()); }

}  // namespace longstride
