// Escapes and shortens text for messages.
#include "core/printable.h"

#include <fmt/format.h>

#include <algorithm>

namespace longstride::core {
namespace {

constexpr size_t kMostShownBytes = 400;  // of one value: a few lines of a terminal

// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with none (RFC 3629: no surrogates, nothing
// above U+10FFFF, nothing longer than need be).
size_t character_bytes(std::string_view text) {
  const auto at = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](size_t i, unsigned least = 0x80, unsigned most = 0xBF) {
    return at(i) >= least && at(i) <= most;
  };
  const unsigned first = at(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    return follows(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF) && follows(2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    return follows(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

std::string escaped(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t bytes = character_bytes(text);
    const auto first = static_cast<unsigned char>(text[0]);
    const bool control = bytes == 1 && (first < 0x20 || first == 0x7F) && first != '\n' && first != '\t';
    if (bytes == 0 || control) {
      shown += fmt::format("\\x{:02x}", first);
    } else {
      shown += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<size_t>(1, bytes));
  }
  return shown;
}

}  // namespace

std::string printable(std::string_view text) {
  if (text.size() <= kMostShownBytes) return escaped(text);
  constexpr size_t kHalf = kMostShownBytes / 2;
  return fmt::format("{} ... ({} bytes left out) ... {}", escaped(text.substr(0, kHalf)), text.size() - 2 * kHalf,
                     escaped(text.substr(text.size() - kHalf)));
}

}  // namespace longstride::core
