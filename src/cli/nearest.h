// "Did you mean": the known word nearest to a mistyped one. Called by main.cc and by commands that take names.
// Torch-free.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longstride::cli {

// The entry of `known` with the smallest edit distance to `given`, or "" when none is within a third of its length.
std::string nearest_word(std::string_view given, const std::vector<std::string>& known);

}  // namespace longstride::cli
