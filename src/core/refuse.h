// Words for bad input, so that every room refuses in the same form: "<argument> <expected>, got <got>; <remedy>".
#pragma once

#include <concepts>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/error.h"

namespace longstride::core {

// Throws Error. `expected` reads on from the argument's name: "must be positive". An empty remedy is left out.
[[noreturn]] void refuse(std::string_view argument, std::string_view expected, std::string_view got,
                         std::string_view remedy = "");
// The same of a number.
[[noreturn]] void refuse(std::string_view argument, std::string_view expected, double got,
                         std::string_view remedy = "");
template <std::integral Whole>
[[noreturn]] void refuse(std::string_view argument, std::string_view expected, Whole got,
                         std::string_view remedy = "") {
  refuse(argument, expected, std::to_string(got), remedy);
}

// Throws Error: "unknown <kind> '<given>'; one of [a, b, c]; did you mean 'b'?" (the last part only when one is near).
[[noreturn]] void refuse_unknown(std::string_view kind, std::string_view given, std::span<const std::string> known);

// Every rank's value, in the order of ranks: "64 on ranks 0, 1 and 128 on rank 2".
std::string by_rank(const std::vector<std::string>& values);

// The entry of `known` nearest to `given` by edit distance, or "" if none is near.
std::string nearest(std::string_view given, std::span<const std::string> known);

}  // namespace longstride::core
