// JSON that the program writes and reads again, with strings that it does not control in it: paths, names of files,
// prompts, what a model generated, error texts. JSON is UTF-8 and these need not be. Called wherever JSON is written,
// and where it may hold what was written so. Torch-free.
//
// The rule, the same everywhere and without loss: a byte that is no part of a UTF-8 character is written as the
// character U+EF00 + byte of the private use area (U+EF80 to U+EFFF, as MirBSD does), and so are the three bytes of
// those characters themselves, so that every string comes back as it was.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace longstride::core {

// `bytes` by that rule, which is UTF-8, and back.
std::string utf8_of(std::string_view bytes);
std::string bytes_of(std::string_view utf8);

// What dump(indent) gives, of JSON whose strings and keys may hold any bytes.
std::string json_text(const nlohmann::json& json, int indent = -1);

// JSON as it was before json_text: to be called on what was parsed.
nlohmann::json with_bytes(const nlohmann::json& parsed);

}  // namespace longstride::core
