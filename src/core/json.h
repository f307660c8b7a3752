// The one reader of JSON: everything that the library or the program parses goes through it. What a text may cost is
// bounded before it is parsed, and what a parser would let pass in silence (a key given twice, a number that no type
// holds) is refused. And what writes JSON with strings that the program does not control in it: paths, names of files,
// prompts, what a model generated, error texts. JSON is UTF-8 and these need not be.
//
// The rule for such strings, the same everywhere and without loss: a byte that is no part of a UTF-8 character is
// written as the character U+EF00 + byte of the private use area (U+EF80 to U+EFFF, as MirBSD does), and so are the
// three bytes of those characters themselves, so that every string comes back as it was.
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

// `bytes` by the rule above, which is UTF-8, and back.
std::string utf8_of(std::string_view bytes);
std::string bytes_of(std::string_view utf8);

// What dump(indent) gives, of JSON whose strings and keys may hold any bytes.
std::string json_text(const nlohmann::json& json, int indent = -1);

// JSON as it was before json_text: to be called on what was parsed.
nlohmann::json with_bytes(const nlohmann::json& parsed);

}  // namespace longstride::core
