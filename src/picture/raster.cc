// Pictures as pixels: boxes by exact coverage, lines and letters by distance to the stroke (picture.h).
#include <algorithm>
#include <cmath>
#include <utility>

#include "picture/glyphs.h"
#include "picture/picture.h"

namespace longstride::picture {
namespace {

using Point = Picture::Point;

class Raster {
 public:
  Raster(int64_t width, int64_t height)
      : width_(width), height_(height), pixels_(static_cast<size_t>(width * height) * 3, 255.0f) {}

  void box(double x0, double y0, double x1, double y1, Color color) {
    for (int64_t y = first(y0); y < last(y1, height_); ++y) {
      const double part_y = std::min(y1, y + 1.0) - std::max(y0, static_cast<double>(y));
      for (int64_t x = first(x0); x < last(x1, width_); ++x) {
        const double part_x = std::min(x1, x + 1.0) - std::max(x0, static_cast<double>(x));
        paint(x, y, color, part_x * part_y);
      }
    }
  }

  // Strokes of one letter or one line are painted together: where they cross, the pixel gets the larger coverage once.
  void strokes(const std::vector<std::pair<Point, Point>>& segments, double thickness, Color color) {
    if (segments.empty()) return;
    const double reach = thickness / 2 + 1;
    Point low = segments.front().first, high = low;
    for (const auto& [a, b] : segments) {
      low = {std::min({low.x, a.x, b.x}), std::min({low.y, a.y, b.y})};
      high = {std::max({high.x, a.x, b.x}), std::max({high.y, a.y, b.y})};
    }
    for (int64_t y = first(low.y - reach); y < last(high.y + reach, height_); ++y) {
      for (int64_t x = first(low.x - reach); x < last(high.x + reach, width_); ++x) {
        double nearest = reach;
        for (const auto& [a, b] : segments) nearest = std::min(nearest, distance({x + 0.5, y + 0.5}, a, b));
        paint(x, y, color, std::clamp(thickness / 2 + 0.5 - nearest, 0.0, 1.0));
      }
    }
  }

  Picture::Pixels finish() const {
    Picture::Pixels result{width_, height_, std::vector<uint8_t>(pixels_.size())};
    std::transform(pixels_.begin(), pixels_.end(), result.rgb.begin(),
                   [](float value) { return static_cast<uint8_t>(std::lround(std::clamp(value, 0.0f, 255.0f))); });
    return result;
  }

 private:
  static int64_t first(double edge) { return std::max<int64_t>(0, static_cast<int64_t>(std::floor(edge))); }
  static int64_t last(double edge, int64_t size) { return std::min(size, static_cast<int64_t>(std::ceil(edge))); }

  static double distance(Point p, Point a, Point b) {
    const double dx = b.x - a.x, dy = b.y - a.y;
    const double length2 = dx * dx + dy * dy;
    const double t = length2 > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length2, 0.0, 1.0) : 0.0;
    return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
  }

  void paint(int64_t x, int64_t y, Color color, double coverage) {
    if (coverage <= 0) return;
    float* pixel = &pixels_[static_cast<size_t>(y * width_ + x) * 3];
    const float t = static_cast<float>(std::min(coverage, 1.0));
    pixel[0] += (color.r - pixel[0]) * t;
    pixel[1] += (color.g - pixel[1]) * t;
    pixel[2] += (color.b - pixel[2]) * t;
  }

  int64_t width_;
  int64_t height_;
  std::vector<float> pixels_;
};

// The straight pieces of a curve; a dashed one is cut along its length.
std::vector<std::pair<Point, Point>> pieces(const std::vector<Point>& points, double scale, bool dashed) {
  std::vector<std::pair<Point, Point>> result;
  double along = 0;  // since the last dash began, in pixels of the picture
  for (size_t i = 1; i < points.size(); ++i) {
    const Point a = points[i - 1], b = points[i];
    const double length = std::hypot(b.x - a.x, b.y - a.y);
    const auto point = [&](double part) {
      const double t = length > 0 ? part / length : 0;
      return Point{(a.x + (b.x - a.x) * t) * scale, (a.y + (b.y - a.y) * t) * scale};
    };
    if (!dashed) {
      result.emplace_back(point(0), point(length));
      continue;
    }
    for (double part = 0; part < length;) {
      const bool drawn = along < kDash;
      const double step = std::min(length - part, (drawn ? kDash : kDash + kDashGap) - along);
      if (drawn) result.emplace_back(point(part), point(part + step));
      part += step;
      along += step;
      if (along >= kDash + kDashGap - 1e-9) along = 0;
      // A step that rounding has made vanish would be taken for ever.
      if (step < 1e-9) part += 1e-9, along += 1e-9;
    }
  }
  return result;
}

// Bytes of UTF-8 that continue a character take no room: each character outside ASCII is one box.
bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

Picture::Pixels Picture::pixels(double scale) const {
  Raster raster(std::lround(width_ * scale), std::lround(height_ * scale));
  for (const Mark& mark : marks_) {
    if (mark.kind == Kind::kBox) {
      raster.box(mark.x0 * scale, mark.y0 * scale, (mark.x0 + mark.x1) * scale, (mark.y0 + mark.y1) * scale,
                 mark.color);
      continue;
    }
    if (mark.kind == Kind::kLine) {
      raster.strokes({{{mark.x0 * scale, mark.y0 * scale}, {mark.x1 * scale, mark.y1 * scale}}}, mark.size * scale,
                     mark.color);
      continue;
    }
    if (mark.kind == Kind::kDot) {
      const Point center{mark.x0 * scale, mark.y0 * scale};
      raster.strokes({{center, center}}, 2 * mark.size * scale, mark.color);
      continue;
    }
    if (mark.kind == Kind::kCurve) {
      // Dashes end square in SVG and round here: shorter by the radius at both ends would be too fine a point.
      for (const auto& piece : pieces(mark.points, scale, mark.dashed)) {
        raster.strokes({piece}, mark.size * scale, mark.color);
      }
      continue;
    }
    const double unit = mark.size * scale / kGlyphLine;
    const auto letters = std::count_if(mark.words.begin(), mark.words.end(), [](char c) { return !continues(c); });
    const double length = letters * kGlyphAdvance * unit;
    const double shift = mark.align == Align::kLeft ? 0 : mark.align == Align::kCenter ? length / 2 : length;
    double along = -shift;
    for (const char c : mark.words) {
      if (continues(c)) continue;
      std::vector<std::pair<Point, Point>> segments;
      const auto place = [&](char gx, char gy) {
        const double u = along + (gx - '0') * unit, v = (gy - '0' - kGlyphBaseline) * unit;
        return mark.upward ? Point{mark.x0 * scale + v, mark.y0 * scale - u}
                           : Point{mark.x0 * scale + u, mark.y0 * scale + v};
      };
      const std::string_view strokes = glyph_strokes(c);
      for (size_t i = 0; i + 1 < strokes.size(); i += 2) {
        if (strokes[i] == ' ') ++i;
        const Point from = place(strokes[i], strokes[i + 1]);
        const bool ends = i + 2 >= strokes.size() || strokes[i + 2] == ' ';
        if (ends) continue;
        Point to = place(strokes[i + 2], strokes[i + 3]);
        // A dot would be no wider than a stem: make it a little more.
        if (from.x == to.x && from.y == to.y) (mark.upward ? to.y : to.x) += 0.35 * unit * (mark.upward ? -1 : 1);
        segments.push_back({from, to});
      }
      // A stem an eighth of the letter's height, as in a book face.
      raster.strokes(segments, 0.85 * unit, mark.color);
      along += kGlyphAdvance * unit;
    }
  }
  return raster.finish();
}

}  // namespace longstride::picture
