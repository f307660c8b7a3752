// Tables and grids for a terminal (terminal.h).
#include "terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "show_picture.h"

namespace longstride::cli {
namespace {

// Characters, not bytes: continuation bytes of UTF-8 take no column.
size_t columns_of(const std::string& words) {
  return static_cast<size_t>(
      std::count_if(words.begin(), words.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

char digit(double multiplicity) {
  const long m = std::lround(multiplicity);
  if (m <= 0) return '.';
  return m < 10 ? static_cast<char>('0' + m) : m < 36 ? static_cast<char>('a' + m - 10) : '+';
}

// Shares from 1/256 to 1 and above in five steps.
const char* shade(double share) {
  if (share <= 0) return " ";
  const int level = std::clamp(static_cast<int>(std::floor(4 + std::log2(share) / 2)), 0, 4);
  static constexpr const char* kShades[] = {"·", "░", "▒", "▓", "█"};
  return kShades[level];
}

}  // namespace

std::string text_table(const std::vector<std::vector<std::string>>& rows, int indent) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], columns_of(row[c]));
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line(static_cast<size_t>(indent), ' ');
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string room(widths[c] - columns_of(row[c]), ' ');
      line += c == 0 ? row[c] + room : "  " + room + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string bytes_label(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} bytes", bytes);
  const char* units[] = {"KiB", "MiB", "GiB", "TiB"};
  int unit = -1;
  while (bytes >= 1024 && unit < 3) {
    bytes /= 1024;
    ++unit;
  }
  return bytes < 10 ? fmt::format("{:.1f} {}", bytes, units[unit]) : fmt::format("{:.0f} {}", bytes, units[unit]);
}

bool stdout_wants_color() {
  if (!isatty(STDOUT_FILENO)) return false;
  const char* off = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return (off == nullptr || *off == '\0') && (term == nullptr || std::string_view(term) != "dumb");
}

std::string text_grid(const Pattern& pattern, const Extent& extent, const Cells& cells, bool color) {
  const bool single = cells.query_tokens == 1 && cells.key_tokens == 1;
  std::string out = fmt::format("{:>9} ", "");
  for (int64_t c = 0; c < cells.columns; c += 16) out += fmt::format("{:<16}", c * cells.key_tokens);
  out.erase(out.find_last_not_of(' ') + 1);
  out += "\n";
  for (int64_t r = 0; r < cells.rows; ++r) {
    out += r % 4 == 0 ? fmt::format("{:>8}  ", extent.query_start + r * cells.query_tokens) : std::string(10, ' ');
    for (int64_t c = 0; c < cells.columns; ++c) {
      double sum = 0;
      for (int64_t g = 0; g < cells.layers; ++g) sum += cells.of(g, r, c);
      const std::string mark = single ? std::string(1, digit(sum)) : std::string(shade(sum));
      const int64_t lead = lead_group(pattern, cells, r, c);
      if (!color || lead < 0) {
        out += mark;
        continue;
      }
      const picture::Color back = cell_color(lead, sum, single);
      const bool dark = 0.3 * back.r + 0.59 * back.g + 0.11 * back.b < 128;
      out += fmt::format("\x1b[48;2;{};{};{}m\x1b[38;5;{}m{}\x1b[0m", back.r, back.g, back.b, dark ? 231 : 16,
                         single ? mark : " ");
    }
    out += "\n";
  }
  return out;
}

}  // namespace longstride::cli
