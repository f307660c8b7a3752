// Escapes and shortens text for messages.
#include "core/printable.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/text_stream.h"

namespace longstride::core {
namespace {

constexpr size_t kMostShownBytes = 400;  // of one value: a few lines of a terminal

std::string escaped(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t bytes = character_size(text);
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
