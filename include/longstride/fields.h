// How a struct of options lists its fields: a static function template
//
//   template <class Self, class Visit>
//   static void fields(Self& self, Visit&& visit) { visit("dropout", self.dropout); ... }
//
// Self is the struct, const or not. JSON, defaults, help and comparison of options are made from that one list; a
// struct that holds another one lists its fields too, so that the JSON of a layer is one flat object. Torch-free.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

namespace longstride {

// A field's own name and the one it goes by instead; nullptr: it is left out.
using FieldName = std::pair<std::string_view, const char*>;

// A visitor that passes on what it is shown, under other names where `names` has them.
template <size_t N, class Visit>
auto under_names(const std::array<FieldName, N>& names, Visit& visit) {
  return [&names, &visit](const char* name, auto& field) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const FieldName& n) { return n.first == name; });
    if (found == names.end()) {
      visit(name, field);
    } else if (found->second != nullptr) {
      visit(found->second, field);
    }
  };
}

}  // namespace longstride
