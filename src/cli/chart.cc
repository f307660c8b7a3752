// Draws line charts as SVG: see chart.h. Sizes are in SVG user units, which viewers show as pixels.
#include "chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <stdexcept>

#include "longstride/error.h"

namespace longstride::cli {
namespace {

constexpr double kWidth = 760, kHeight = 440;
constexpr double kLeft = 78, kRight = 24, kTop = 66, kBottom = 58;
constexpr double kLegendRow = 20;
// Told apart by eye, also with the usual kinds of colour blindness (Okabe and Ito's palette, darkest first).
constexpr std::array<const char*, 7> kColors = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                "#56b4e9", "#e69f00", "#333333"};

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string number_label(double value) {
  if (value != 0.0 && (std::abs(value) < 1e-3 || std::abs(value) >= 1e7)) return fmt::format("{:.0e}", value);
  return fmt::format("{:.6g}", value);
}

// One axis: maps values to [0, 1] and knows its ticks.
struct Axis {
  bool log = false;
  double low = 0, high = 1;  // in log units if log
  std::vector<std::pair<double, std::string>> ticks;

  double place(double value) const { return ((log ? std::log2(value) : value) - low) / (high - low); }
};

double tick_step(double span, int wanted) {
  const double raw = span / wanted;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
    if (factor * power >= raw * 0.999) return factor * power;
  }
  return 10.0 * power;
}

Axis linear_axis(double low, double high, bool from_zero) {
  if (from_zero) low = std::min(low, 0.0);
  if (high - low < 1e-12 * std::max(1.0, std::abs(high))) {
    const double pad = std::max(std::abs(high) * 0.05, 1e-9);
    if (!from_zero) low -= pad;
    high += pad;
  }
  const double step = tick_step(high - low, 6);
  Axis axis;
  axis.low = std::floor(low / step + 1e-9) * step;
  axis.high = std::ceil(high / step - 1e-9) * step;
  for (double value = axis.low; value <= axis.high + step / 2; value += step) {
    const double clean = std::round(value / step) * step;
    axis.ticks.push_back({clean, number_label(clean)});
  }
  return axis;
}

// Log axis: ticks at powers of `base`, thinned out to at most ten; base 10 spans of little more than a decade get 2
// and 5.
Axis log_axis(double low, double high, int base) {
  Axis axis;
  axis.log = true;
  const double unit = std::log2(static_cast<double>(base));
  double first = std::log2(low) / unit, last = std::log2(high) / unit;
  if (base == 10) first = std::floor(first + 1e-9), last = std::ceil(last - 1e-9);
  if (last - first < 1e-9) first -= 0.5, last += 0.5;
  axis.low = first * unit;
  axis.high = last * unit;
  const int every = std::max(1, static_cast<int>(std::ceil((last - first) / 10.0)));
  for (int power = static_cast<int>(std::ceil(first - 1e-9)); power <= last + 1e-9; power += every) {
    const double value = std::pow(base, power);
    axis.ticks.push_back({value, base == 2 ? length_label(value) : number_label(value)});
    if (base == 10 && last - first < 2.5 && power + 1 <= last + 1e-9) {
      for (int factor : {2, 5}) axis.ticks.push_back({factor * value, number_label(factor * value)});
    }
  }
  return axis;
}

bool drawable(const Chart& chart, double x, double y) {
  return std::isfinite(x) && std::isfinite(y) && (!chart.log_x || x > 0) && (!chart.log_y || y > 0);
}

struct Frame {
  Axis x, y;
  double top = kTop;
  double px(double value) const { return kLeft + x.place(value) * (kWidth - kLeft - kRight); }
  double py(double value) const { return kHeight - kBottom - y.place(value) * (kHeight - kBottom - top); }
};

Frame frame_of(const Chart& chart) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const ChartSeries& series : chart.series) {
    for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (!drawable(chart, series.x[i], series.y[i])) continue;
      x_low = std::min(x_low, series.x[i]), x_high = std::max(x_high, series.x[i]);
      y_low = std::min(y_low, series.y[i]), y_high = std::max(y_high, series.y[i]);
    }
  }
  if (x_low > x_high) throw Error(fmt::format("nothing to draw in the chart '{}': no finite point", chart.title));
  Frame frame;
  frame.x = chart.log_x ? log_axis(x_low, x_high, 2) : linear_axis(x_low, x_high, false);
  frame.y = chart.log_y ? log_axis(y_low, y_high, 10) : linear_axis(y_low, y_high, chart.zero_y);
  return frame;
}

std::string axes_svg(const Chart& chart, const Frame& frame) {
  std::string svg;
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  for (const auto& [value, label] : frame.y.ticks) {
    const double y = frame.py(value);
    svg += fmt::format("<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kLeft, y,
                       right, y);
    svg += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 8,
                       y + 4, label);
  }
  for (const auto& [value, label] : frame.x.ticks) {
    const double x = frame.px(value);
    svg += fmt::format("<line class=\"grid\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", x, frame.top,
                       x, bottom);
    svg += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n", x,
                       bottom + 18, label);
  }
  svg += fmt::format("<line class=\"axis\" x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\"/>\n", kLeft,
                     bottom, right);
  svg += fmt::format("<text class=\"label\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                     (kLeft + right) / 2, kHeight - 14, escaped(chart.x_label));
  const double middle = (frame.top + bottom) / 2;
  svg += fmt::format(
      "<text class=\"label\" transform=\"rotate(-90 20 {0:.1f})\" x=\"20\" y=\"{0:.1f}\" "
      "text-anchor=\"middle\">{1}</text>\n",
      middle, escaped(chart.y_label));
  return svg;
}

std::string series_svg(const Chart& chart, const Frame& frame) {
  std::string svg;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const ChartSeries& series = chart.series[s];
    const char* color = kColors[s % kColors.size()];
    std::vector<std::pair<double, double>> points;
    for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (drawable(chart, series.x[i], series.y[i])) points.push_back({frame.px(series.x[i]), frame.py(series.y[i])});
    }
    std::string path;
    for (const auto& [x, y] : points) path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x, y);
    svg += fmt::format("<polyline class=\"curve\" stroke=\"{}\"{} points=\"{}\"/>\n", color,
                       series.dashed ? " stroke-dasharray=\"6 4\"" : "", path);
    // Dots tell measured points from the lines between them; a long training curve has too many to show.
    if (points.size() <= 40) {
      for (const auto& [x, y] : points)
        svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.2\" fill=\"{}\"/>\n", x, y, color);
    }
  }
  return svg;
}

struct Legend {
  std::string svg;
  double bottom = 0;
};

// Rows of labels under the title, each row filled from the left.
Legend legend_svg(const Chart& chart, double top) {
  constexpr double kGlyph = 7.0;  // mean width of a letter at 12 px, on the safe side
  Legend legend;
  double x = kLeft, y = top;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const double width = 34 + kGlyph * static_cast<double>(chart.series[s].label.size()) + 14;
    if (x > kLeft && x + width > kWidth - kRight) x = kLeft, y += kLegendRow;
    legend.svg += fmt::format(
        "<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{2:.1f}\" y2=\"{1:.1f}\" stroke=\"{3}\" stroke-width=\"2.4\"{4}/>\n",
        x, y - 4, x + 24, kColors[s % kColors.size()], chart.series[s].dashed ? " stroke-dasharray=\"6 4\"" : "");
    legend.svg += fmt::format("<text class=\"legend\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x + 30, y,
                              escaped(chart.series[s].label));
    x += width;
  }
  legend.bottom = y;
  return legend;
}

}  // namespace

std::string length_label(double value) {
  if (value >= 1024.0 * 1024.0 && std::fmod(value, 1024.0 * 1024.0) == 0.0)
    return fmt::format("{:.0f}M", value / (1024.0 * 1024.0));
  if (value >= 1024.0 && std::fmod(value, 1024.0) == 0.0) return fmt::format("{:.0f}k", value / 1024.0);
  return fmt::format("{:.6g}", value);
}

std::string chart_svg(const Chart& chart) {
  Frame frame = frame_of(chart);
  double top = 30;
  std::string head =
      fmt::format("<text class=\"title\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", kLeft, top, escaped(chart.title));
  if (!chart.subtitle.empty()) {
    top += 18;
    head +=
        fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", kLeft, top, escaped(chart.subtitle));
  }
  if (chart.series.size() > 1 || !chart.series.front().label.empty()) {
    const Legend legend = legend_svg(chart, top + 22);
    head += legend.svg;
    top = legend.bottom;
  }
  frame.top = top + 16;
  constexpr const char* kStyle =
      "text{font-family:system-ui,-apple-system,'Segoe UI',sans-serif;fill:#222}"
      ".title{font-size:16px;font-weight:600}.label{font-size:13px}.legend{font-size:12px}.tick{font-size:12px;fill:#"
      "555}"
      ".grid{stroke:#e4e4e4;stroke-width:1}.axis{stroke:#888;stroke-width:1}"
      ".curve{fill:none;stroke-width:2.4;stroke-linejoin:round;stroke-linecap:round}";
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">\n"
      "<title>{2}</title>\n<style>{3}</style>\n<rect width=\"{0}\" height=\"{1}\" "
      "fill=\"#ffffff\"/>\n{4}{5}{6}</svg>\n",
      kWidth, kHeight, escaped(chart.title), kStyle, head, axes_svg(chart, frame), series_svg(chart, frame));
}

void write_chart_svg(const std::string& path, const Chart& chart) {
  const std::string svg = chart_svg(chart);
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << svg;
  out.close();
  if (!out) throw std::runtime_error(fmt::format("cannot write the chart to '{}'", path));
}

}  // namespace longstride::cli
