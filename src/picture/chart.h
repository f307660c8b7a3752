// Line charts: axes (linear or log), grid, legend, as a picture that can be SVG or PNG. Called by eval and bench.
// Torch-free.
#pragma once

#include <string>
#include <vector>

#include "picture/picture.h"

namespace longstride::picture {

struct ChartSeries {
  std::string label;
  std::vector<double> x;  // same length as y; points that are not finite are left out
  std::vector<double> y;
  bool dashed = false;        // for references such as a peer or a goal
  std::vector<double> error;  // empty, or how far each point's bar reaches up and down; 0: the point has none
};

struct Chart {
  std::string title;
  std::string subtitle;  // one small line under the title: machine, shape, date; may be empty
  std::string x_label;
  std::string y_label;
  std::vector<ChartSeries> series;
  bool log_x = false;   // base 2, ticks at powers of two written as 1k, 2k, ... (1024 = 1k)
  bool log_y = false;   // base 10
  bool zero_y = false;  // the y axis starts at 0 (linear axis only)
};

// Throws Error if nothing can be drawn (no finite point, or values <= 0 on a log axis).
Picture chart_picture(const Chart& chart);

// 1024 -> "1k", 65536 -> "64k", 1500 -> "1500", 1048576 -> "1M": how charts and tables write lengths.
std::string length_label(double value);

}  // namespace longstride::picture
