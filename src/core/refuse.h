// Words for bad input, so that every room refuses in the same form: "<argument> <expected>, got <got>; <remedy>".
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "longstride/error.h"

namespace longstride::core {

// Throws Error. `expected` reads on from the argument's name: "must be positive". An empty remedy is left out.
[[noreturn]] void refuse(std::string_view argument, std::string_view expected, std::string_view got,
                         std::string_view remedy = "");

// Throws Error: "unknown <kind> '<given>'; one of [a, b, c]; did you mean 'b'?" (the last part only when one is near).
[[noreturn]] void refuse_unknown(std::string_view kind, std::string_view given, std::span<const std::string> known);

// The entry of `known` nearest to `given` by edit distance, or "" if none is near.
std::string nearest(std::string_view given, std::span<const std::string> known);

}  // namespace longstride::core
