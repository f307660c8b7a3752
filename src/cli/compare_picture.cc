// The picture of compare (compare_report.h): dots in a row a pattern, a panel a question.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "compare_report.h"

namespace longstride::cli {
namespace {

constexpr double kTop = 96, kRow = 26, kBottom = 40, kLeft = 150, kPanel = 170, kGap = 26;
constexpr double kTitleSize = 20, kLabelSize = 15, kSmallSize = 13;
constexpr double kDot = 4;
constexpr picture::Color kRule{228, 228, 228};

struct Dot {
  double value = 0;
  double error = 0;  // drawn as a line to both sides
  picture::Color color;
};

struct Panel {
  std::string title;
  double low = 0, high = 1;
  std::string low_label, high_label;
  std::function<std::vector<Dot>(const ComparedPattern&)> dots;
  std::function<std::string(const ComparedPattern&)> words = {};  // in place of dots, where there are none
};

Panel pairs_panel() {
  return {"pairs seen", 0, 1, "0", "100 %", [](const ComparedPattern& entry) {
            return std::vector<Dot>{{entry.reach.density, 0, picture::kInk}};
          }};
}

Panel layers_panel(const Comparison& comparison) {
  size_t most = 2;
  for (const ComparedPattern& entry : comparison.patterns) {
    if (entry.reach.all) most = std::max(most, entry.reach.reached.size());
  }
  return {
      "layers to reach all",
      1,
      static_cast<double>(most),
      "1",
      fmt::format("{}", most),
      [](const ComparedPattern& entry) {
        if (!entry.reach.all) return std::vector<Dot>();
        return std::vector<Dot>{{static_cast<double>(entry.reach.reached.size()), 0, picture::kInk}};
      },
      [](const ComparedPattern& entry) { return fmt::format("never: {} % of pairs", percent_reached(entry.reach)); }};
}

Panel coverage_panel(const std::string& title, train::Mean LayerCoverage::*field) {
  return {title, 0, 1, "0", "100 %", [field](const ComparedPattern& entry) {
            std::vector<Dot> dots;
            for (const LayerCoverage& layer : entry.coverage) {
              dots.push_back({(layer.*field).value, 0, picture::group_color(std::ssize(dots))});
            }
            return dots;
          }};
}

// What it costs beyond the first run, with two standard errors: the same windows, so the text's own spread is out.
Panel bits_panel(const Comparison& comparison) {
  double low = 0, high = 0;
  std::string first;
  for (const ComparedPattern& entry : comparison.patterns) {
    if (!entry.bits) continue;
    if (first.empty()) first = entry.name;
    low = std::min(low, entry.bits->more.value - 2 * entry.bits->more.standard_error);
    high = std::max(high, entry.bits->more.value + 2 * entry.bits->more.standard_error);
  }
  if (high - low < 1e-6) high = low + 1e-6;
  return {"bits/byte over " + first,
          low,
          high,
          fmt::format("{:+.3f}", low),
          fmt::format("{:+.3f}", high),
          [](const ComparedPattern& entry) {
            if (!entry.bits) return std::vector<Dot>();
            return std::vector<Dot>{{entry.bits->more.value, 2 * entry.bits->more.standard_error, picture::kInk}};
          },
          [](const ComparedPattern&) { return std::string("not trained"); }};
}

void draw_panel(const Panel& panel, const Comparison& comparison, double left, picture::Picture& picture) {
  const double right = left + kPanel;
  const auto place = [&](double value) {
    return left + std::clamp((value - panel.low) / (panel.high - panel.low), 0.0, 1.0) * kPanel;
  };
  const double bottom = kTop + kRow * static_cast<double>(comparison.patterns.size());
  picture.text((left + right) / 2, kTop - 14, panel.title, kLabelSize, picture::kInk, picture::Align::kCenter);
  for (const double x : {left, (left + right) / 2, right}) picture.line(x, kTop, x, bottom, kRule);
  if (panel.low < 0 && panel.high > 0) picture.line(place(0), kTop, place(0), bottom, picture::kFaint);
  picture.text(left, bottom + 16, panel.low_label, kSmallSize, picture::kGrey);
  picture.text(right, bottom + 16, panel.high_label, kSmallSize, picture::kGrey, picture::Align::kRight);
  double y = kTop + kRow / 2;
  for (const ComparedPattern& entry : comparison.patterns) {
    const std::vector<Dot> dots = panel.dots(entry);
    if (dots.empty() && panel.words) picture.text(left + 6, y + 4, panel.words(entry), kSmallSize, picture::kGrey);
    for (const Dot& dot : dots) {
      if (dot.error > 0) picture.line(place(dot.value - dot.error), y, place(dot.value + dot.error), y, dot.color, 2);
      picture.dot(place(dot.value), y, kDot, dot.color);
    }
    y += kRow;
  }
}

}  // namespace

picture::Picture comparison_picture(const Comparison& comparison) {
  std::vector<Panel> panels = {pairs_panel(), layers_panel(comparison)};
  std::string words = fmt::format("{} tokens, {} KV heads", comparison.len, comparison.kv_heads);
  size_t layers = 0;
  if (comparison.coverage_windows > 0) {
    panels.push_back(coverage_panel("attention kept", &LayerCoverage::mass));
    panels.push_back(
        coverage_panel(fmt::format("heaviest {:g} % kept", 100 * comparison.share), &LayerCoverage::heaviest));
    layers = comparison.patterns.front().coverage.size();
  }
  if (comparison.windows > 0) {
    panels.push_back(bits_panel(comparison));
    words += fmt::format("; bits per byte of the last {} bytes of {} held-out windows, +- 2 standard errors",
                         comparison.scored, comparison.windows);
  }
  const auto rows = static_cast<double>(comparison.patterns.size());
  picture::Picture picture(kLeft + static_cast<double>(panels.size()) * (kPanel + kGap) + kGap,
                           kTop + kRow * rows + kBottom);
  picture.text(kGap, 30, "Which patterns reach what", kTitleSize);
  picture.text(kGap, 50, words, kSmallSize, picture::kGrey);
  double y = kTop + kRow / 2;
  for (const ComparedPattern& entry : comparison.patterns) {
    picture.line(kGap, y + kRow / 2, picture.width() - kGap, y + kRow / 2, kRule);
    picture.text(kGap, y + 5, entry.name, kLabelSize);
    y += kRow;
  }
  double left = kLeft + kGap;
  for (const Panel& panel : panels) {
    draw_panel(panel, comparison, left, picture);
    left += kPanel + kGap;
  }
  // The colours of the layers, under the panels that have them.
  double x = kLeft + kGap + 2 * (kPanel + kGap) + 60;
  for (size_t layer = 0; layer < layers; ++layer) {
    picture.dot(x, picture.height() - 14, kDot, picture::group_color(static_cast<int64_t>(layer)));
    picture.text(x + 8, picture.height() - 10, fmt::format("layer {}", layer + 1), kSmallSize, picture::kGrey);
    x += 72;
  }
  return picture;
}

}  // namespace longstride::cli
