// A picture as a list of boxes, lines, curves and words, which can be written as SVG (text stays text) and as PNG
// (drawn here, with the stroke font of glyphs.h, since a bare machine has no font file). Called by chart.cc and
// the commands that draw. Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace longstride::picture {

struct Color {
  uint8_t r = 0;
  uint8_t g = 0;
  uint8_t b = 0;
  bool operator==(const Color&) const = default;
};

// a * (1 - t) + b * t, 0 <= t <= 1.
Color blend(Color a, Color b, double t);

// Okabe and Ito's eight colours, which people with any of the usual colour blindnesses can tell apart ("Color Universal
// Design", 2008), black left out: one per group, repeating after seven.
Color group_color(int64_t group);

inline constexpr Color kWhite{255, 255, 255};
inline constexpr Color kInk{34, 34, 34};
inline constexpr Color kGrey{90, 90, 90};
inline constexpr Color kFaint{150, 150, 150};

// A dashed curve draws so many pixels, then leaves so many out.
inline constexpr double kDash = 6;
inline constexpr double kDashGap = 4;

enum class Align { kLeft, kCenter, kRight };

// Pixels, y down, (0, 0) at the top left.
class Picture {
 public:
  Picture(double width, double height) : width_(width), height_(height) {}
  double width() const { return width_; }
  double height() const { return height_; }
  void set_height(double height) { height_ = height; }

  void box(double x, double y, double w, double h, Color fill);
  void frame(double x, double y, double w, double h, Color color, double thickness = 1);
  void line(double x0, double y0, double x1, double y1, Color color, double thickness = 1);
  void dot(double x, double y, double radius, Color color);
  // Straight lines from point to point, joined.
  struct Point {
    double x = 0;
    double y = 0;
  };
  void curve(std::vector<Point> points, Color color, double thickness, bool dashed = false);
  // (x, y): where the baseline starts, is centred or ends. `size`: height of a line in pixels. `upward`: turned by a
  // quarter so that it reads from bottom to top.
  void text(double x, double y, std::string_view words, double size, Color color = kInk, Align align = Align::kLeft,
            bool upward = false);

  std::string svg() const;
  // Rows of RGB from the top, every pixel of the picture `scale` pixels wide.
  struct Pixels {
    int64_t width = 0;
    int64_t height = 0;
    std::vector<uint8_t> rgb;  // height x width x 3
  };
  Pixels pixels(double scale) const;

 private:
  enum class Kind { kBox, kLine, kDot, kCurve, kText };
  struct Mark {
    Kind kind;
    double x0, y0, x1, y1;  // box: corner and size; dot and text: x0, y0 only
    double size;            // thickness of a line or curve, radius of a dot, height of text
    Color color;
    Align align = Align::kLeft;
    bool upward = false;
    std::string words = {};
    std::vector<Point> points = {};  // of a curve
    bool dashed = false;
  };
  double width_;
  double height_;
  std::vector<Mark> marks_;
};

// Writes SVG or PNG, by the ending of `path`; PNG at twice the size, so that it stays sharp on a fine screen. Throws
// Error for any other ending and std::runtime_error when the file cannot be written.
void write_picture(const std::string& path, const Picture& picture);

// Throws Error unless `path` ends in .svg or .png: to be called before the work.
void check_picture_path(const std::string& option, const std::string& path);

}  // namespace longstride::picture
