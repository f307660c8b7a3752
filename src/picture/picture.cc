// Pictures as lists of marks, their SVG and their files (picture.h).
#include "picture/picture.h"

#include <fmt/format.h>
#include <png.h>

#include <array>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "core/files.h"
#include "core/text_stream.h"
#include "longstride/error.h"

namespace longstride::picture {
namespace {

constexpr std::array<Color, 7> kGroupColors = {{{0, 114, 178},     // blue
                                                {230, 159, 0},     // orange
                                                {0, 158, 115},     // bluish green
                                                {204, 121, 167},   // reddish purple
                                                {86, 180, 233},    // sky blue
                                                {213, 94, 0},      // vermilion
                                                {240, 228, 66}}};  // yellow

std::string hex(Color color) { return fmt::format("#{:02x}{:02x}{:02x}", color.r, color.g, color.b); }

// Names of files come in too; XML takes neither control characters nor what is not UTF-8.
std::string escaped(std::string_view words) {
  std::string result;
  for (const char c : core::readable(words)) {
    const std::string_view known = "&<>\"";
    constexpr const char* kEscapes[] = {"&amp;", "&lt;", "&gt;", "&quot;"};
    const size_t at = known.find(c);
    result += at == known.npos ? std::string(1, c) : kEscapes[at];
  }
  return result;
}

// Two decimals are a fiftieth of a pixel; trailing zeros only make the file longer.
std::string number(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

bool ends_with(const std::string& path, std::string_view ending) {
  return path.size() > ending.size() && path.ends_with(ending);
}

// Pixels to the bytes of a PNG file, by libpng's simplified interface. Throws std::runtime_error if it refuses.
std::string png_file(const Picture::Pixels& pixels) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(pixels.width);
  image.height = static_cast<png_uint_32>(pixels.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string bytes(size, '\0');
  if (png_image_write_to_memory(&image, bytes.data(), &size, 0, pixels.rgb.data(), 0, nullptr) == 0)
    throw std::runtime_error(std::string("cannot draw the picture as PNG: ") + image.message);
  bytes.resize(size);
  return bytes;
}

}  // namespace

Color blend(Color a, Color b, double t) {
  const auto mix = [t](uint8_t x, uint8_t y) { return static_cast<uint8_t>(std::lround(x * (1 - t) + y * t)); };
  return {mix(a.r, b.r), mix(a.g, b.g), mix(a.b, b.b)};
}

Color group_color(int64_t group) { return kGroupColors[static_cast<size_t>(group) % kGroupColors.size()]; }

void Picture::box(double x, double y, double w, double h, Color fill) {
  marks_.push_back({Kind::kBox, x, y, w, h, 0, fill});
}

void Picture::line(double x0, double y0, double x1, double y1, Color color, double thickness) {
  marks_.push_back({Kind::kLine, x0, y0, x1, y1, thickness, color});
}

void Picture::frame(double x, double y, double w, double h, Color color, double thickness) {
  line(x, y, x + w, y, color, thickness);
  line(x, y + h, x + w, y + h, color, thickness);
  line(x, y, x, y + h, color, thickness);
  line(x + w, y, x + w, y + h, color, thickness);
}

void Picture::dot(double x, double y, double radius, Color color) {
  marks_.push_back({Kind::kDot, x, y, 0, 0, radius, color});
}

void Picture::curve(std::vector<Point> points, Color color, double thickness, bool dashed) {
  Mark mark{Kind::kCurve, 0, 0, 0, 0, thickness, color};
  mark.points = std::move(points);
  mark.dashed = dashed;
  marks_.push_back(std::move(mark));
}

void Picture::text(double x, double y, std::string_view words, double size, Color color, Align align, bool upward) {
  marks_.push_back({Kind::kText, x, y, 0, 0, size, color, align, upward, std::string(words)});
}

std::string Picture::svg() const {
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" "
      "font-family=\"DejaVu Sans, Verdana, sans-serif\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
      number(width_), number(height_));
  for (const Mark& mark : marks_) {
    switch (mark.kind) {
      case Kind::kBox:
        out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n", number(mark.x0),
                           number(mark.y0), number(mark.x1), number(mark.y1), hex(mark.color));
        break;
      case Kind::kLine:
        out += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"{}\"/>\n",
                           number(mark.x0), number(mark.y0), number(mark.x1), number(mark.y1), hex(mark.color),
                           number(mark.size));
        break;
      case Kind::kDot:
        out += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"/>\n", number(mark.x0), number(mark.y0),
                           number(mark.size), hex(mark.color));
        break;
      case Kind::kCurve: {
        std::string points;
        for (const Point& p : mark.points) {
          points += fmt::format("{}{},{}", points.empty() ? "" : " ", number(p.x), number(p.y));
        }
        out += fmt::format(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{}/>\n",
            points, hex(mark.color), number(mark.size),
            mark.dashed ? fmt::format(" stroke-dasharray=\"{} {}\"", number(kDash), number(kDashGap)) : "");
        break;
      }
      case Kind::kText: {
        const char* anchor = mark.align == Align::kLeft ? "start" : mark.align == Align::kCenter ? "middle" : "end";
        const std::string turn =
            mark.upward ? fmt::format(" transform=\"rotate(-90 {} {})\"", number(mark.x0), number(mark.y0)) : "";
        // Letters of a usual font are about 0.8 of the line's height that Picture::text is given.
        out += fmt::format("<text x=\"{}\" y=\"{}\" font-size=\"{}\" fill=\"{}\" text-anchor=\"{}\"{}>{}</text>\n",
                           number(mark.x0), number(mark.y0), number(mark.size * 0.8), hex(mark.color), anchor, turn,
                           escaped(mark.words));
        break;
      }
    }
  }
  return out + "</svg>\n";
}

void check_picture_path(const std::string& option, const std::string& path) {
  if (ends_with(path, ".svg") || ends_with(path, ".png")) return;
  throw Error(fmt::format("{}: got '{}', expected a file name that ends in .svg or .png", option, path));
}

void write_picture(const std::string& path, const Picture& picture) {
  check_picture_path("picture", path);
  core::write_file(path, ends_with(path, ".png") ? png_file(picture.pixels(2)) : picture.svg());
}

}  // namespace longstride::picture
