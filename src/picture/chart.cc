// Draws line charts: see chart.h. Sizes are in pixels.
#include "picture/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "longstride/error.h"
#include "picture/glyphs.h"

namespace longstride::picture {
namespace {

constexpr double kWidth = 760, kHeight = 440;
constexpr double kLeft = 78, kRight = 24, kTop = 66, kBottom = 58;
constexpr double kLegendRow = 20;
constexpr double kCurveWidth = 2.4;
// Heights of lines of text (picture.h).
constexpr double kTitleSize = 20, kLabelSize = 16, kSmallSize = 15;
// In which a chart takes the colours of groups, darkest first, without yellow, whose lines are lost on white.
constexpr std::array<int64_t, 6> kColorOrder = {0, 5, 2, 3, 4, 1};
constexpr Color kGrid{228, 228, 228};
constexpr Color kAxis{136, 136, 136};

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

double error_at(const ChartSeries& series, size_t i) {
  const double error = i < series.error.size() ? series.error[i] : 0.0;
  return std::isfinite(error) ? error : 0.0;
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
      const double error = error_at(series, i);
      for (double y : {series.y[i] - error, series.y[i], series.y[i] + error}) {
        if (drawable(chart, series.x[i], y)) y_low = std::min(y_low, y), y_high = std::max(y_high, y);
      }
    }
  }
  if (x_low > x_high) throw Error(fmt::format("nothing to draw in the chart '{}': no finite point", chart.title));
  Frame frame;
  frame.x = chart.log_x ? log_axis(x_low, x_high, 2) : linear_axis(x_low, x_high, false);
  frame.y = chart.log_y ? log_axis(y_low, y_high, 10) : linear_axis(y_low, y_high, chart.zero_y);
  return frame;
}

void draw_axes(const Chart& chart, const Frame& frame, Picture& picture) {
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  for (const auto& [value, label] : frame.y.ticks) {
    const double y = frame.py(value);
    picture.line(kLeft, y, right, y, kGrid);
    picture.text(kLeft - 8, y + 4, label, kSmallSize, kGrey, Align::kRight);
  }
  for (const auto& [value, label] : frame.x.ticks) {
    const double x = frame.px(value);
    picture.line(x, frame.top, x, bottom, kGrid);
    picture.text(x, bottom + 18, label, kSmallSize, kGrey, Align::kCenter);
  }
  picture.line(kLeft, bottom, right, bottom, kAxis);
  picture.text((kLeft + right) / 2, kHeight - 14, chart.x_label, kLabelSize, kInk, Align::kCenter);
  picture.text(20, (frame.top + bottom) / 2, chart.y_label, kLabelSize, kInk, Align::kCenter, true);
}

// Bars with a foot at either end; one that a log axis cannot show whole ends at the frame.
void draw_errors(const Chart& chart, const Frame& frame, const ChartSeries& series, Color color, Picture& picture) {
  constexpr double kFoot = 5;
  for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
    const double error = error_at(series, i);
    if (error == 0.0 || !drawable(chart, series.x[i], series.y[i])) continue;
    const double x = frame.px(series.x[i]), low = series.y[i] - error;
    const double bottom = drawable(chart, series.x[i], low) ? frame.py(low) : kHeight - kBottom;
    const double top = frame.py(series.y[i] + error);
    picture.line(x, bottom, x, top, color, 1.6);
    for (double y : {bottom, top}) picture.line(x - kFoot, y, x + kFoot, y, color, 1.6);
  }
}

void draw_series(const Chart& chart, const Frame& frame, Picture& picture) {
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const ChartSeries& series = chart.series[s];
    const Color color = group_color(kColorOrder[s % kColorOrder.size()]);
    std::vector<Picture::Point> points;
    for (size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (drawable(chart, series.x[i], series.y[i])) points.push_back({frame.px(series.x[i]), frame.py(series.y[i])});
    }
    picture.curve(points, color, kCurveWidth, series.dashed);
    draw_errors(chart, frame, series, color, picture);
    // Dots tell measured points from the lines between them; a long training curve has too many to show.
    if (points.size() > 40) continue;
    for (const Picture::Point& p : points) picture.dot(p.x, p.y, 3.2, color);
  }
}

// Rows of labels from `top` on, each row filled from the left; returns the last row's baseline.
double draw_legend(const Chart& chart, double top, Picture& picture) {
  double x = kLeft, y = top;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const std::string& label = chart.series[s].label;
    // The stroke font's letters; those of an SVG's font are narrower.
    const double width = 34 + kSmallSize * kGlyphAdvance / kGlyphLine * label.size() + 14;
    if (x > kLeft && x + width > kWidth - kRight) x = kLeft, y += kLegendRow;
    picture.curve({{x, y - 4}, {x + 24, y - 4}}, group_color(kColorOrder[s % kColorOrder.size()]), kCurveWidth,
                  chart.series[s].dashed);
    picture.text(x + 30, y, label, kSmallSize);
    x += width;
  }
  return y;
}

}  // namespace

std::string length_label(double value) {
  if (value >= 1024.0 * 1024.0 && std::fmod(value, 1024.0 * 1024.0) == 0.0)
    return fmt::format("{:.0f}M", value / (1024.0 * 1024.0));
  if (value >= 1024.0 && std::fmod(value, 1024.0) == 0.0) return fmt::format("{:.0f}k", value / 1024.0);
  return fmt::format("{:.6g}", value);
}

Picture chart_picture(const Chart& chart) {
  Frame frame = frame_of(chart);
  Picture picture(kWidth, kHeight);
  double top = 30;
  picture.text(kLeft, top, chart.title, kTitleSize);
  if (!chart.subtitle.empty()) {
    top += 18;
    picture.text(kLeft, top, chart.subtitle, kSmallSize, kGrey);
  }
  if (chart.series.size() > 1 || !chart.series.front().label.empty()) top = draw_legend(chart, top + 22, picture);
  frame.top = top + 16;
  draw_axes(chart, frame, picture);
  draw_series(chart, frame, picture);
  return picture;
}

}  // namespace longstride::picture
