// UTF-8 by the table of the Unicode standard (3-7, well-formed byte sequences): cuts a stream of bytes where
// characters end.
#include "core/text_stream.h"

#include <fmt/format.h>

#include <algorithm>

namespace longstride::core {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

constexpr size_t kMostShownBytes = 400;  // of one value: a few lines of a terminal

int length_of(unsigned char lead) {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

// Whether `byte` may be the second of a character that `lead` begins: this shuts out overlong forms and surrogates.
bool second_fits(unsigned char lead, unsigned char byte) {
  const unsigned char least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const unsigned char most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  return byte >= least && byte <= most;
}

bool is_shown(unsigned char byte) { return byte == '\n' || byte == '\t' || (byte >= 0x20 && byte != 0x7f); }

std::string escaped(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t bytes = character_size(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (bytes == 0 || (bytes == 1 && !is_shown(first))) {
      shown += fmt::format("\\x{:02x}", first);
    } else {
      shown += text.substr(0, bytes);
    }
    text.remove_prefix(std::max<size_t>(1, bytes));
  }
  return shown;
}

}  // namespace

size_t character_size(std::string_view bytes) {
  if (bytes.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  if (byte(0) < 0x80) return 1;
  const size_t size = length_of(byte(0));
  if (size == 0 || size > bytes.size() || !second_fits(byte(0), byte(1))) return 0;
  for (size_t i = 2; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return size;
}

std::string readable(std::string_view bytes) {
  TextStream stream;
  std::string text;
  for (const char byte : bytes) text += stream.push(static_cast<unsigned char>(byte));
  return text + stream.flush();
}

std::string printable(std::string_view text) {
  if (text.size() <= kMostShownBytes) return escaped(text);
  constexpr size_t kHalf = kMostShownBytes / 2;
  return fmt::format("{} ... ({} bytes left out) ... {}", escaped(text.substr(0, kHalf)), text.size() - 2 * kHalf,
                     escaped(text.substr(text.size() - kHalf)));
}

std::string TextStream::push(unsigned char byte) {
  if (pending_ == "\r") {
    pending_.clear();
    return byte == '\n' ? std::string("\r\n") : std::string(1, '\n').append(push(byte));
  }
  if (byte == '\r') {
    const std::string before = flush();
    pending_.assign(1, '\r');
    return before;
  }
  if (!pending_.empty()) {
    const bool fits =
        pending_.size() == 1 ? second_fits(static_cast<unsigned char>(pending_[0]), byte) : (byte & 0xc0) == 0x80;
    if (fits) {
      pending_.push_back(static_cast<char>(byte));
      if (static_cast<int>(pending_.size()) < wanted_) return "";
      std::string whole;
      whole.swap(pending_);
      // C1 control characters (U+0080 to U+009F) move cursors and change colours on some terminals.
      const bool control = wanted_ == 2 && whole[0] == '\xc2' && static_cast<unsigned char>(whole[1]) < 0xa0;
      return control ? kReplacement : whole;
    }
    pending_.clear();
    return std::string(kReplacement).append(push(byte));
  }
  if (byte < 0x80) return is_shown(byte) ? std::string(1, static_cast<char>(byte)) : kReplacement;
  wanted_ = length_of(byte);
  if (wanted_ == 0) return kReplacement;
  pending_.push_back(static_cast<char>(byte));
  return "";
}

std::string TextStream::flush() {
  std::string left;
  left.swap(pending_);
  return left.empty() ? "" : left == "\r" ? "\n" : kReplacement;
}

}  // namespace longstride::core
