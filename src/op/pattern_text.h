// Patterns and their JSON texts, each looked up by the other: a warm call neither writes nor parses JSON. Torch-free.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "longstride/pattern.h"

namespace longstride::op {

// How many texts are kept each way; the store is emptied when it is full, which costs each pattern in use one parse.
inline constexpr size_t kMostTexts = 256;

// to_json() of a pattern. Thread-safe.
std::string text_of(const Pattern&);

// pattern_from_json() of a text that names its blocks itself; shared and never changed. Thread-safe. Throws Error, and
// keeps nothing then.
std::shared_ptr<const Pattern> pattern_of(std::string_view text);

// How many texts are kept now, for tests.
size_t kept_texts();

}  // namespace longstride::op
