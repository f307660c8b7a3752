// The one reader of JSON: everything that the library or the program parses goes through it. What a text may cost is
// bounded before it is parsed, and what a parser would let pass in silence (a key given twice, a number that no type
// holds) is refused. Called by every room that reads JSON.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace longstride::core {

using Json = nlohmann::ordered_json;  // keys in the order of the text

// A list of a million blocks takes about 20 MiB; a run's settings take kilobytes.
inline constexpr size_t kMostJsonBytes = size_t{64} << 20;
// What is nested is visited by recursion (printed, copied, compared). Ours needs nine levels: the blocks of a pattern's
// rules in the settings of a run.
inline constexpr size_t kMostJsonDepth = 64;

// The value of `text`. Throws Error, which begins with `what` and says where: text that is longer than `most_bytes`,
// no JSON, not UTF-8 or followed by more; nesting below kMostJsonDepth; a key given twice in an object; an integer that
// 64 bits do not hold; a number that a double does not.
Json parse_json(std::string_view what, std::string_view text, size_t most_bytes = kMostJsonBytes);

// The same of a file, of which no more is read than may be parsed. Throws Error also for a file that cannot be read.
Json read_json(std::string_view what, const std::filesystem::path& path, size_t most_bytes = kMostJsonBytes);

// A value as messages show it: on one line, its middle left out if it is long.
std::string shown(const Json& value);

}  // namespace longstride::core
