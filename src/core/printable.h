// Text that was given, as a message can hold it. Called by refuse.cc for every message, and by who words one himself.
#pragma once

#include <string>
#include <string_view>

namespace longstride::core {

// Bytes that are no UTF-8, and control characters but for newline and tab, as \xNN; the middle left out where it is
// long.
std::string printable(std::string_view text);

}  // namespace longstride::core
