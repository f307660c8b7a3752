// Draws a bar of progress over itself on a terminal, and now and then a line elsewhere.
#include "progress_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "standard_streams.h"

namespace longstride::cli {
namespace {

constexpr int kBarCells = 24, kLeastBarCells = 8;
constexpr double kRedrawSeconds = 0.1;

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

}  // namespace

ProgressLine::ProgressLine(bool quiet, double every_seconds)
    : quiet_(quiet),
      terminal_(isatty(STDERR_FILENO) != 0),
      every_seconds_(terminal_ ? kRedrawSeconds : every_seconds),
      last_(std::chrono::steady_clock::now() - std::chrono::hours(1)) {}

ProgressLine::~ProgressLine() { finish(true); }

void ProgressLine::update(double share, const std::string& text) {
  if (quiet_) return;
  const int percent = static_cast<int>(std::floor(100.0 * std::clamp(share, 0.0, 1.0)));
  if (terminal_) {
    // The bar gives way before the text does: what stands beside it is "[] 100%  ".
    const int room = static_cast<int>(terminal_columns()) - 1 - 9 - static_cast<int>(text.size());
    const int cells = std::clamp(room, kLeastBarCells, kBarCells);
    const int full = static_cast<int>(std::lround(cells * std::clamp(share, 0.0, 1.0)));
    std::string bar;
    for (int i = 0; i < cells; ++i) bar += i < full ? '=' : i == full ? '>' : ' ';
    line_ = fmt::format("[{}] {:3}%  {}", bar, percent, text);
    line_.resize(std::min(line_.size(), terminal_columns() - 1));
  } else {
    line_ = fmt::format("{:3}%  {}", percent, text);
  }
  const auto now = std::chrono::steady_clock::now();
  if (std::chrono::duration<double>(now - last_).count() < every_seconds_) return;
  last_ = now;
  if (terminal_) {
    tell_text(fmt::format("\r{}\x1b[K", line_));
  } else {
    tell_text(fmt::format("{}\n", line_));
  }
  shown_ = true;
}

void ProgressLine::note(const std::string& text) {
  if (quiet_) return;
  if (terminal_ && shown_) {
    tell_text(fmt::format("\r\x1b[K{}\n{}", text, line_));
  } else {
    tell_text(fmt::format("{}\n", text));
  }
}

void ProgressLine::finish(bool keep) {
  if (terminal_ && shown_) {
    if (keep) {
      tell_text(fmt::format("\r{}\x1b[K\n", line_));
    } else {
      tell_text("\r\x1b[K");
    }
  }
  shown_ = false;
}

}  // namespace longstride::cli
