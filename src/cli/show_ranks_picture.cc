// The picture of a plan of ranks: who sends to whom as a square of ranks, what each receives as bars by group, and what
// the model says (show_ranks.h).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "pattern_options.h"
#include "show_ranks.h"
#include "terminal.h"

namespace longstride::cli {
namespace {

using picture::Align;
using picture::Picture;

constexpr double kWidth = 1000;
constexpr double kLeft = 84;
constexpr double kSide = 560;
constexpr double kTop = 168;
constexpr int64_t kCells = 140;  // four pixels each
constexpr int64_t kBars = 280;   // two pixels each
constexpr double kBarHeight = 150;
constexpr picture::Color kOwn{226, 226, 226};
constexpr size_t kLetters = 42;  // of a line beside the square
constexpr size_t kTitleLetters = 124;

// Bytes to a shade: a logarithmic scale from 1/256 of the most to the most.
picture::Color shade(double share) {
  if (share <= 0) return picture::kWhite;
  return picture::blend(picture::kWhite, picture::group_color(4),
                        0.15 + 0.85 * std::clamp(1 + std::log2(share) / 8, 0.0, 1.0));
}

void ticks(Picture& picture, int64_t ranks, double x, double y, double length, bool down) {
  const int64_t step = std::max<int64_t>(1, (ranks + 7) / 8);
  for (int64_t rank = 0; rank < ranks; rank += step) {
    const double at = length * (static_cast<double>(rank) + (ranks <= 16 ? 0.5 : 0)) / static_cast<double>(ranks);
    if (down) {
      picture.line(x - 5, y + at, x, y + at, picture::kFaint);
      picture.text(x - 8, y + at + 4, fmt::format("{}", rank), 13, picture::kInk, Align::kRight);
    } else {
      picture.line(x + at, y - 5, x + at, y, picture::kFaint);
      picture.text(x + at, y - 8, fmt::format("{}", rank), 13, picture::kInk, Align::kCenter);
    }
  }
}

// Returns the most bytes of a cell.
double draw_square(Picture& picture, const RanksShown& shown, int64_t width) {
  const int64_t ranks = shown.call.shards.ranks();
  const auto cells = traffic_cells(shown, width);
  const double cell = kSide / static_cast<double>(cells.size());
  double most = 0;
  for (const auto& row : cells) most = std::max(most, *std::max_element(row.begin(), row.end()));
  for (size_t r = 0; r < cells.size(); ++r) {
    for (size_t c = 0; c < cells.size(); ++c) {
      if (cells[r][c] <= 0 && r != c) continue;
      // To half pixels, so that neighbours meet without a seam.
      const auto edge = [&](size_t n) { return std::round(cell * static_cast<double>(n) * 2) / 2; };
      picture.box(kLeft + edge(c), kTop + edge(r), edge(c + 1) - edge(c), edge(r + 1) - edge(r),
                  cells[r][c] > 0 ? shade(cells[r][c] / most) : kOwn);
    }
  }
  picture.frame(kLeft, kTop, kSide, kSide, picture::kFaint);
  ticks(picture, ranks, kLeft, kTop, kSide, false);
  ticks(picture, ranks, kLeft, kTop, kSide, true);
  picture.text(kLeft + kSide / 2, kTop - 28, "rank that sends keys and values", 14, picture::kInk, Align::kCenter);
  picture.text(24, kTop + kSide / 2, "rank that receives them", 14, picture::kInk, Align::kCenter, true);
  return most * static_cast<double>(shown.shape.forward_bytes());
}

// Words in lines of kLetters; returns the y below them.
double paragraph(Picture& picture, const std::string& words, double x, double y) {
  std::string line;
  const auto flush = [&] {
    picture.text(x, y, line, 12, picture::kGrey);
    y += 16;
    line.clear();
  };
  for (size_t at = 0; at < words.size();) {
    const size_t end = std::min(words.find(' ', at), words.size());
    if (!line.empty() && line.size() + 1 + end - at > kLetters) flush();
    line += (line.empty() ? "" : " ") + words.substr(at, end - at);
    at = end + 1;
  }
  flush();
  return y;
}

void draw_words(Picture& picture, const RanksShown& shown, int64_t width, double most) {
  const double x = kLeft + kSide + 36;
  double y = kTop + 8;
  if (most > 0) {
    picture.text(x, y,
                 width > 1 ? fmt::format("shade: bytes a pair, mean of {} x {} ranks", width, width)
                           : "shade: bytes that the pair moves forward",
                 13);
    for (int i = 0; i < 4; ++i) {
      const double share = std::pow(8.0, i - 3);
      picture.box(x, y + 12 + 20 * i, 26, 15, shade(share));
      picture.text(x + 36, y + 24 + 20 * i, bytes_label(std::round(most * share)), 13);
    }
    y += 12 + 4 * 20;
  } else {
    picture.text(x, y, "nothing travels", 13);
  }
  picture.box(x, y + 4, 26, 15, kOwn);
  picture.text(x + 36, y + 16, "the rank's own", 13);
  y += 58;
  picture.text(x, y, "A model, not a measurement", 15);
  picture.text(x, y + 19, "ms a layer, slowest rank (of it waiting)", 12, picture::kGrey);
  y += 42;
  picture.text(x + 76, y, "forward", 12, picture::kGrey);
  picture.text(x + 192, y, "backward", 12, picture::kGrey);
  const auto times = [](const parallel::Predicted& its) {
    return fmt::format("{:.3g} ({:.3g})", its.total_s * 1e3, its.exposed_s * 1e3);
  };
  for (const auto& [plan, its] : shown.runs.feasible) {
    y += 19;
    const picture::Color ink = parallel::runs(plan.kind) ? picture::kInk : picture::kFaint;
    picture.text(x, y, name(plan), 13, ink);
    picture.text(x + 76, y, times(its.forward), 13, ink);
    picture.text(x + 192, y, times(its.backward), 13, ink);
  }
  y += 24;
  picture.text(x, y, fmt::format("\"auto\" is {}; grey: in the model alone", name(shown.runs.plan)), 12,
               picture::kGrey);
  y += 30;
  for (const std::string& line : figure_words(shown.hardware)) y = paragraph(picture, line, x, y) + 8;
}

// Bars of what each rank receives, by source; of more ranks than bars the one that receives most stands for its
// neighbours. Returns the y below.
double draw_bars(Picture& picture, const RanksShown& shown, double top) {
  const std::vector<std::string> sources = source_words(shown.call.pattern);
  const auto ranks = std::ssize(shown.rows), width = (ranks + kBars - 1) / kBars;
  const int64_t bars = (ranks + width - 1) / width;
  const std::vector<parallel::RankLoad>& loads = shown.survey.ranks;
  const auto fewer = [](const parallel::RankLoad& a, const parallel::RankLoad& b) { return a.rows < b.rows; };
  const int64_t most = std::max_element(loads.begin(), loads.end(), fewer)->rows;
  picture.text(kLeft, top,
               fmt::format("Bytes that {} receives forward, by group; backward {} times as many",
                           width > 1 ? fmt::format("the busiest of {} ranks", width) : "a rank",
                           shown.shape.backward_bytes() / shown.shape.forward_bytes()),
               15);
  const double y = top + 22, bar = kSide / static_cast<double>(bars);
  for (int64_t n = 0; n < bars; ++n) {
    const auto first = loads.begin() + n * width, last = loads.begin() + std::min(ranks, (n + 1) * width);
    const parallel::RankLoad& load = *std::max_element(first, last, fewer);
    double bottom = y + kBarHeight;
    for (size_t s = 0; s < sources.size(); ++s) {
      const double height = kBarHeight * static_cast<double>(load.sources[s].added) / static_cast<double>(most);
      if (height <= 0) continue;
      bottom -= height;
      picture.box(kLeft + bar * static_cast<double>(n), bottom, bars > 64 ? bar : 0.86 * bar, height,
                  picture::group_color(static_cast<int64_t>(s)));
    }
  }
  picture.line(kLeft, y + kBarHeight, kLeft + kSide, y + kBarHeight, picture::kFaint);
  for (int i = 0; i <= 2; ++i) {
    const double share = i / 2.0, at = y + kBarHeight * (1 - share);
    picture.line(kLeft - 5, at, kLeft, at, picture::kFaint);
    picture.text(kLeft - 8, at + 4, bytes_label(share * static_cast<double>(most * shown.shape.forward_bytes())), 11,
                 picture::kInk, Align::kRight);
  }
  ticks(picture, ranks, kLeft, y + kBarHeight + 24, kSide, false);
  picture.text(kLeft + kSide / 2, y + kBarHeight + 42, "rank", 14, picture::kInk, Align::kCenter);
  double x = kLeft + kSide + 36, down = y;
  picture.text(x, down, "segment/rate", 13);
  // Those that any rank needs rows for.
  std::vector<size_t> drawn;
  for (size_t s = 0; s < sources.size(); ++s) {
    if (std::ranges::any_of(loads, [&](const parallel::RankLoad& load) { return load.sources[s].added > 0; }))
      drawn.push_back(s);
  }
  const size_t lines = std::max<size_t>(8, (drawn.size() + 1) / 2);
  for (size_t n = 0; n < drawn.size(); ++n) {
    const double left = x + 152 * static_cast<double>(n / lines), row = down + 10 + 20 * static_cast<double>(n % lines);
    picture.box(left, row, 22, 15, picture::group_color(static_cast<int64_t>(drawn[n])));
    picture.text(left + 28, row + 12, sources[drawn[n]], 12);
  }
  return y + std::max(kBarHeight + 60, 30 + 20.0 * static_cast<double>(std::min(lines, drawn.size())));
}

}  // namespace

Picture ranks_picture(const RanksShown& shown) {
  Picture picture(kWidth, 800);
  const int64_t ranks = shown.call.shards.ranks(), width = (ranks + kCells - 1) / kCells;
  picture.text(24, 32, "Who sends what to whom", 21);
  // What does not fit the page is cut; the text has all of it.
  std::string lengths = fmt::format("{}; {}", extent_line(shown.call.extent), pattern_line(shown.call.pattern));
  if (lengths.size() > kTitleLetters) lengths = lengths.substr(0, kTitleLetters - 3) + "...";
  picture.text(24, 54, lengths, 13, picture::kGrey);
  picture.text(24, 76, shards_words(shown), 13, picture::kGrey);
  picture.text(24, 98,
               fmt::format("exchange {}; counted from pattern and lengths, not measured", name(shown.runs.plan)), 13,
               picture::kGrey);
  const double most = draw_square(picture, shown, width);
  draw_words(picture, shown, width, most);
  double bottom = kTop + kSide + 40;
  if (most > 0) bottom = draw_bars(picture, shown, bottom);
  picture.set_height(bottom + 12);
  return picture;
}

}  // namespace longstride::cli
