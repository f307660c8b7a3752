// The picture of a pattern: who sees whom (show_picture.h).
#include "show_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "pattern_options.h"
#include "show_cells.h"

namespace longstride::cli {
namespace {

constexpr double kWidth = 1000;
constexpr double kMainSide = 560;
constexpr int64_t kMainCells = 280;  // two pixels a cell
constexpr int64_t kSmallCells = 128;
constexpr int64_t kMaxHeads = 6;

// To half pixels, which are whole ones in a PNG: neighbours then meet without a seam.
double snap(double edge) { return std::round(edge * 2) / 2; }

std::string layer_words(const Pattern& pattern, int64_t layer) {
  if (layer < std::ssize(pattern.groups())) {
    const Group& group = pattern.groups()[static_cast<size_t>(layer)];
    return fmt::format("segment {}, rate {}", group.segment, group.rate);
  }
  std::string words;
  for (const BlockPattern& block : pattern.blocks()) {
    if (!words.empty()) words += ", ";
    words += block_words(block);
  }
  return words;
}

// Cut behind commas, so that a line ends within the page.
std::vector<std::string> lines_of(const std::string& words) {
  constexpr size_t kMost = 34;
  std::vector<std::string> lines = {""};
  for (size_t begin = 0; begin < words.size();) {
    const size_t comma = words.find(", ", begin);
    const size_t end = comma == std::string::npos ? words.size() : comma + 2;
    if (!lines.back().empty() && lines.back().size() + end - begin > kMost) lines.emplace_back();
    lines.back() += words.substr(begin, end - begin);
    begin = end;
  }
  return lines;
}

// A square panel of cells. `only`: one layer, or -1 for all. Runs of one colour in a row are one box.
void draw_cells(picture::Picture& picture, const Pattern& pattern, const Cells& cells, double x, double y, double side,
                int64_t only) {
  const double cell_w = side / static_cast<double>(std::max<int64_t>(1, cells.columns));
  const double cell_h = side / static_cast<double>(std::max<int64_t>(1, cells.rows));
  const bool single = cells.query_tokens == 1 && cells.key_tokens == 1;
  for (int64_t r = 0; r < cells.rows; ++r) {
    picture::Color run_color = picture::kWhite;
    int64_t run_begin = 0;
    for (int64_t c = 0; c <= cells.columns; ++c) {
      picture::Color color = picture::kWhite;
      if (c < cells.columns) {
        double sum = 0;
        for (int64_t g = 0; g < cells.layers; ++g) sum += only < 0 || only == g ? cells.of(g, r, c) : 0;
        const int64_t lead = only >= 0 ? only : lead_group(pattern, cells, r, c);
        if (sum > 0) color = cell_color(lead, sum, single);
      }
      if (c == cells.columns || !(color == run_color)) {
        if (!(run_color == picture::kWhite) && c > run_begin) {
          const double left = snap(x + static_cast<double>(run_begin) * cell_w),
                       right = snap(x + static_cast<double>(c) * cell_w);
          const double top = snap(y + static_cast<double>(r) * cell_h),
                       bottom = snap(y + static_cast<double>(r + 1) * cell_h);
          picture.box(left, top, right - left, bottom - top, run_color);
        }
        run_begin = c;
        run_color = color;
      }
    }
  }
  picture.frame(x, y, side, side, picture::kFaint);
}

void draw_axes(picture::Picture& picture, const Extent& extent, double x, double y, double side) {
  for (int i = 0; i <= 4; ++i) {
    const double at = side * i / 4;
    const auto key = static_cast<int64_t>(std::llround(static_cast<double>(extent.len_k) * i / 4));
    const auto query =
        extent.query_start + static_cast<int64_t>(std::llround(static_cast<double>(extent.len_q) * i / 4));
    picture.line(x + at, y - 5, x + at, y, picture::kFaint);
    picture.text(x + at, y - 8, fmt::format("{}", key), 13, picture::kInk, picture::Align::kCenter);
    picture.line(x - 5, y + at, x, y + at, picture::kFaint);
    picture.text(x - 8, y + at + 4, fmt::format("{}", query), 13, picture::kInk, picture::Align::kRight);
  }
  picture.text(x + side / 2, y - 26, "key position", 14, picture::kInk, picture::Align::kCenter);
  picture.text(18, y + side / 2, "query position", 14, picture::kInk, picture::Align::kCenter, true);
}

// Colours and shades; returns the y below it.
double draw_legend(picture::Picture& picture, const Pattern& pattern, const Cells& cells, double x, double y) {
  const bool single = cells.query_tokens == 1 && cells.key_tokens == 1;
  picture.text(x, y, "colour: the group with the smallest", 13);
  picture.text(x, y + 17, "segment that shows the pair", 13);
  y += 30;
  for (int64_t g = 0; g < cells.layers; ++g) {
    picture.box(x, y, 26, 15, cell_color(g, 1, true));
    for (const std::string& line : lines_of(layer_words(pattern, g))) {
      picture.text(x + 36, y + 12, line, 13);
      y += 21;
    }
  }
  y += 22;
  if (single) {
    picture.text(x, y, "shade: how many groups show it", 13);
    y += 12;
    const int64_t most = std::min<int64_t>(cells.layers, 5);
    for (int64_t m = 1; m <= most; ++m) {
      picture.box(x + static_cast<double>(m - 1) * 54, y, 26, 15, cell_color(0, static_cast<double>(m), true));
      picture.text(x + static_cast<double>(m - 1) * 54 + 31, y + 12, fmt::format("{}", m), 13);
    }
  } else {
    picture.text(x, y, fmt::format("shade: pairs seen in a cell of {} x {}", cells.query_tokens, cells.key_tokens), 13);
    y += 12;
    for (int i = 0; i < 5; ++i) {
      const double share = std::pow(4.0, i - 4);
      picture.box(x + i * 62, y, 18, 15, cell_color(0, share, false));
      picture.text(x + i * 62 + 22, y + 12, i == 4 ? "all" : fmt::format("1/{}", std::lround(1 / share)), 11);
    }
  }
  return y + 48;
}

// What ALiBi leaves of a key's weight, e^(-slope * distance), over the logarithm of its distance. Returns the y below.
double draw_slopes(picture::Picture& picture, const std::vector<float>& slopes, int64_t len, double y) {
  constexpr double kLeft = 84, kSide = 560, kHeight = 150;
  const auto shown = std::min<int64_t>(std::ssize(slopes), kMaxHeads);
  const double octaves = std::log2(static_cast<double>(std::max<int64_t>(2, len)));
  const auto across = [&](double octave) { return kLeft + kSide * octave / octaves; };
  y += 14;
  picture.text(24, y, "ALiBi: what is left of a key's weight, by its distance in tokens", 15);
  y += 20;
  picture.frame(kLeft, y, kSide, kHeight, picture::kFaint);
  const int step = octaves > 12 ? 4 : octaves > 6 ? 2 : 1;
  for (int octave = 0; octave <= static_cast<int>(octaves); octave += step) {
    picture.line(across(octave), y + kHeight, across(octave), y + kHeight + 5, picture::kFaint);
    picture.text(across(octave), y + kHeight + 19, fmt::format("{}", int64_t{1} << octave), 13, picture::kInk,
                 picture::Align::kCenter);
  }
  for (const double share : {0.0, 0.5, 1.0}) {
    const double at = y + kHeight * (1 - share);
    picture.line(kLeft - 5, at, kLeft, at, picture::kFaint);
    picture.text(kLeft - 8, at + 4, fmt::format("{}", share), 13, picture::kInk, picture::Align::kRight);
  }
  for (int64_t h = 0; h < shown; ++h) {
    const double slope = slopes[static_cast<size_t>(h)];
    std::vector<picture::Picture::Point> points;
    constexpr int kPoints = 140;  // four pixels each
    for (int n = 0; n <= kPoints; ++n) {
      const double octave = octaves * n / kPoints;
      points.push_back({across(octave), y + kHeight * (1 - std::exp(-slope * std::exp2(octave)))});
    }
    picture.curve(points, picture::group_color(h), 2);
    const double line = y + 12 + 21 * static_cast<double>(h);
    picture.box(kLeft + kSide + 40, line - 9, 26, 6, picture::group_color(h));
    picture.text(kLeft + kSide + 76, line, fmt::format("head {}: slope {:.4g}", h, slope), 13);
  }
  return y + kHeight + 48;
}

}  // namespace

int64_t lead_group(const Pattern& pattern, const Cells& cells, int64_t row, int64_t column) {
  int64_t lead = -1;
  for (int64_t g = 0; g < std::ssize(pattern.groups()); ++g) {
    if (cells.of(g, row, column) <= 0) continue;
    if (lead < 0 ||
        pattern.groups()[static_cast<size_t>(g)].segment < pattern.groups()[static_cast<size_t>(lead)].segment)
      lead = g;
  }
  // Block patterns have the colour where no group shows the pair.
  const auto groups = std::ssize(pattern.groups());
  if (lead < 0 && cells.layers > groups && cells.of(groups, row, column) > 0) return groups;
  return lead;
}

picture::Color cell_color(int64_t group, double multiplicity, bool single_tokens) {
  const picture::Color base = picture::group_color(group);
  if (multiplicity <= 0) return picture::kWhite;
  if (single_tokens) {
    if (multiplicity < 1.5) return picture::blend(base, picture::kWhite, 0.35);
    return picture::blend(base, picture::Color{0, 0, 0}, std::min(0.22 * (multiplicity - 2), 0.75));
  }
  // Shares go down to 1 / rate^2: a logarithmic scale from 1/512, which is just visible, to every pair once.
  const double level = std::clamp(1 + std::log2(multiplicity) / 9, 0.0, 1.0);
  if (multiplicity <= 1) return picture::blend(picture::kWhite, base, 0.15 + 0.75 * level);
  return picture::blend(base, picture::Color{0, 0, 0}, std::min(0.1 + 0.18 * (multiplicity - 1), 0.75));
}

picture::Picture token_picture(const Pattern& pattern, const Extent& extent, int64_t head,
                               const std::vector<float>& alibi_slopes) {
  const int64_t kv_head = head / (extent.heads / extent.kv_heads);
  picture::Picture picture(kWidth, 800);
  picture.text(24, 32, "Who sees whom", 21);
  picture.text(24, 54, fmt::format("{}; {}", extent_line(extent), pattern_line(pattern)), 13, picture::kGrey);
  const Cells cells = count_cells(pattern, extent, head, kMainCells);
  const int64_t groups = std::ssize(pattern.groups()), layers = cells.layers;
  const double x = 84, y = 118;
  draw_cells(picture, pattern, cells, x, y, kMainSide, -1);
  draw_axes(picture, extent, x, y, kMainSide);

  const double right = x + kMainSide + 40;
  picture.text(right, 88, fmt::format("head {} of {}: all groups", head, extent.heads), 15);
  double down = draw_legend(picture, pattern, cells, right, 118);

  // The groups one by one, as many in a row as keep the column within the page.
  const int64_t across = layers > 4 ? 3 : 2;
  const double gap = 14;
  const double side = (kWidth - right - 24 - gap * static_cast<double>(across - 1)) / static_cast<double>(across);
  if (layers > 1) picture.text(right, down, "each group alone", 15);
  down += 12;
  const Cells small = count_cells(pattern, extent, head, kSmallCells);
  for (int64_t g = 0; layers > 1 && g < layers; ++g) {
    const double px = right + static_cast<double>(g % across) * (side + gap);
    const double py = down + static_cast<double>(g / across) * (side + 30);
    draw_cells(picture, pattern, small, px, py, side, g);
    if (g == groups) {
      picture.text(px, py + side + 15, "block patterns", across == 3 ? 10 : 12);
      continue;
    }
    const std::string words = pattern.runs(g, kv_head, extent.kv_heads)
                                  ? fmt::format("rate {}, offset {}", pattern.groups()[static_cast<size_t>(g)].rate,
                                                pattern.offset(g, kv_head, extent.kv_heads))
                                  : "not run";
    picture.text(px, py + side + 15, words, across == 3 ? 10 : 12);
  }
  double bottom =
      std::max(y + kMainSide, down + static_cast<double>((layers + across - 1) / across) * (side + 30)) + 40;

  if (extent.heads > 1) {
    const int64_t shown = std::min(extent.heads, kMaxHeads);
    picture.text(24, bottom, fmt::format("the first {} of {} heads, all groups", shown, extent.heads), 15);
    bottom += 14;
    const double head_side = (kWidth - 48 - 15.0 * static_cast<double>(kMaxHeads - 1)) / static_cast<double>(kMaxHeads);
    for (int64_t h = 0; h < shown; ++h) {
      const double px = 24 + static_cast<double>(h) * (head_side + 15);
      draw_cells(picture, pattern, count_cells(pattern, extent, h, kSmallCells), px, bottom, head_side, -1);
      picture.text(px, bottom + head_side + 17, fmt::format("head {}", h), 13);
    }
    bottom += head_side + 36;
  }
  if (!alibi_slopes.empty()) bottom = draw_slopes(picture, alibi_slopes, extent.len_k, bottom);
  picture.set_height(bottom);
  return picture;
}

}  // namespace longstride::cli
