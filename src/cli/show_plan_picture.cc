// The picture of a plan: one panel a level, positions sorted by residue (show_picture.h).
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "longstride/error.h"
#include "longstride/plan/walk.h"
#include "pattern_options.h"
#include "show_picture.h"

namespace longstride::cli {
namespace {

constexpr double kWidth = 1000;
// A picture of more rectangles takes tens of megabytes of SVG and shows less than a smaller length does.
constexpr int64_t kMostRectangles = 60000;
constexpr picture::Color kMasked{214, 214, 214};
constexpr picture::Color kTileEdge{120, 120, 120};

// Shade of a weight: the groups that show a pair at once.
picture::Color weight_color(int32_t weight) {
  const picture::Color base = picture::group_color(0);
  if (weight <= 1) return picture::blend(base, picture::kWhite, 0.55);
  if (weight == 2) return picture::blend(base, picture::kWhite, 0.15);
  return picture::blend(base, picture::Color{0, 0, 0}, std::min(0.25 * (weight - 2), 0.8));
}

// Where a position stands when all positions are sorted by (position mod stride, position): a strided tile is one
// block.
struct Order {
  int64_t origin, stride, per_residue;
  double place(int64_t position) const {
    const int64_t p = position - origin;
    return static_cast<double>(p % stride * per_residue + p / stride);
  }
  double size() const { return static_cast<double>(stride * per_residue); }
};

struct Panel {
  double x, y, side;
  Order rows, columns;
  double row_scale() const { return side / rows.size(); }
  double column_scale() const { return side / columns.size(); }
};

struct Tally {
  int64_t tiles = 0;
  int64_t rectangles = 0;
  int64_t merged_rows = 0;
};

// Draws one tile: what is computed in grey, what is seen over it.
void draw_tile(picture::Picture& picture, const Panel& panel, const PlanView& plan, const PlacedTile& placed) {
  const Tile& tile = *placed.tile;
  const double ys = panel.row_scale(), xs = panel.column_scale();
  const double top = panel.y + panel.rows.place(placed.row(0)) * ys;
  for (const Run& run : plan.runs_of(tile)) {
    const auto seen_by = [&](int64_t row) { return columns_seen(plan, run, row); };
    const int64_t block = plan.column_block, hidden = seen_by(run.row_begin).first / block * block;
    const int64_t computed =
        std::min(run.columns, (seen_by(run.row_end - 1).second + block - 1) / block * block) - hidden;
    for (int32_t c = 0; c < run.residues; ++c) {
      const double left = panel.x + panel.columns.place(placed.column(run, c, 0)) * xs;
      if (computed > 0) {
        picture.box(left + static_cast<double>(hidden) * xs, top + run.row_begin * ys,
                    static_cast<double>(computed) * xs, (run.row_end - run.row_begin) * ys, kMasked);
      }
      // Rows that see the same keys, or as many rows as make one pixel, are one box.
      const int64_t step = std::max<int64_t>(1, static_cast<int64_t>(0.5 / ys));
      int64_t row = run.row_begin;
      while (row < run.row_end) {
        int64_t stop = std::min<int64_t>(run.row_end, row + step);
        const auto seen = seen_by((row + stop - 1) / 2);
        while (stop < run.row_end && seen_by(stop) == seen) ++stop;
        if (seen.first < seen.second) {
          picture.box(left + static_cast<double>(seen.first) * xs, top + static_cast<double>(row) * ys,
                      static_cast<double>(seen.second - seen.first) * xs, static_cast<double>(stop - row) * ys,
                      weight_color(run.weight));
        }
        row = stop;
      }
    }
  }
  // Tile edges where they can be told apart.
  if (tile.rows * ys > 3) picture.line(panel.x, top, panel.x + panel.side, top, kTileEdge, 0.4);
}

}  // namespace

picture::Picture plan_picture(const PlanView& plan, const Pattern& pattern, const Extent& extent, int64_t head) {
  const int64_t kv_head = head / (extent.heads / extent.kv_heads);
  const PlanClass& plan_class = plan.classes[static_cast<size_t>(plan.class_of[static_cast<size_t>(kv_head)])];
  const auto levels = plan.levels_of(plan_class);
  std::vector<Tally> tallies(levels.size());
  int32_t most_weight = 1;
  int64_t rectangles = 0;
  const int64_t strips = 300;  // at most so many boxes for the diagonals of one run
  for (size_t l = 0; l < levels.size(); ++l) {
    for_each_stored_tile(plan, levels[l], [&](const Section& section, const Tile& tile) {
      tallies[l].tiles += section.repeats;
      for (const Merge& merge : plan.merges_of(tile)) tallies[l].merged_rows += merge.rows * section.repeats;
      for (const Run& run : plan.runs_of(tile)) {
        most_weight = std::max(most_weight, run.weight);
        const bool whole = run.diagonal >= Run::kEverything && run.low == -Run::kEverything;
        const int64_t boxes = whole ? 2 : 1 + std::min<int64_t>(strips, tile.rows);
        tallies[l].rectangles += run.residues * section.repeats;
        rectangles += boxes * run.residues * section.repeats;
      }
    });
  }
  if (rectangles > kMostRectangles) {
    throw Error(
        fmt::format("--plan-picture: the plan has {} boxes to draw, expected at most {}; take a smaller --len or "
                    "a larger --tile-rows",
                    rectangles, kMostRectangles));
  }

  const int64_t across = std::clamp<int64_t>(std::ssize(levels), 1, 3);
  const double gap = 56;
  const double side =
      std::min(620.0, (kWidth - 84 - 24 - gap * static_cast<double>(across - 1)) / static_cast<double>(across));
  picture::Picture picture(kWidth, 400);
  picture.text(24, 32, fmt::format("The plan of head {}", head), 21);
  picture.text(24, 54, fmt::format("{}; {}", extent_line(extent), pattern_line(pattern)), 13, picture::kGrey);
  picture.text(24, 76,
               fmt::format("tiles of {} queries; positions are sorted by their residue modulo the stride of the level",
                           plan.tile_rows),
               13, picture::kGrey);
  double y = 150;
  for (size_t l = 0; l < levels.size(); ++l) {
    const Level& level = levels[l];
    const int64_t column = static_cast<int64_t>(l) % across;
    if (l > 0 && column == 0) y += side + 100;
    const auto residue = [&](int64_t count) { return std::max<int64_t>(1, (count + level.stride - 1) / level.stride); };
    const Panel panel{84 + static_cast<double>(column) * (side + gap),
                      y,
                      side,
                      {extent.query_start, level.stride, residue(extent.len_q)},
                      {0, level.stride, residue(extent.len_k)}};
    picture.text(panel.x, y - 40,
                 fmt::format("level {}: stride {}, {}", l, level.stride,
                             level.parts == Parts::kOfBase ? "parts of the base"
                             : level.partial               ? "partial"
                                                           : "base"),
                 15);
    std::string words = fmt::format("{} tiles, {} rectangles", tallies[l].tiles, tallies[l].rectangles);
    if (tallies[l].merged_rows > 0) words += fmt::format(", merges {} rows", tallies[l].merged_rows);
    picture.text(panel.x, y - 22, words, 12, picture::kGrey);
    picture.box(panel.x, y, side, side, picture::Color{252, 252, 252});
    for_each_tile(plan, level, [&](const PlacedTile& placed) { draw_tile(picture, panel, plan, placed); });
    picture.frame(panel.x, y, side, side, picture::kFaint);
    if (level.stride > 1 && level.stride <= 32) {  // residues, where their bands are wide enough to be named
      for (int64_t r = 0; r < level.stride; ++r) {
        const double at = side * static_cast<double>(r) / static_cast<double>(level.stride);
        picture.line(panel.x - 6, y + at, panel.x, y + at, picture::kInk, 0.8);
        picture.line(panel.x + at, y + side, panel.x + at, y + side + 6, picture::kInk, 0.8);
        if (level.stride > 16 && r % 2 == 1) continue;
        const double middle = at + side / static_cast<double>(2 * level.stride);
        picture.text(panel.x - 6, y + middle + 4, fmt::format("{}", r), 10, picture::kGrey, picture::Align::kRight);
        picture.text(panel.x + middle, y + side + 16, fmt::format("{}", r), 10, picture::kGrey,
                     picture::Align::kCenter);
      }
    }
    picture.text(panel.x + side / 2, y + side + 34,
                 level.stride > 1 ? fmt::format("keys by position mod {}", level.stride) : "key position", 13,
                 picture::kInk, picture::Align::kCenter);
    picture.text(panel.x - 26, y + side / 2,
                 level.stride > 1 ? fmt::format("queries by position mod {}", level.stride) : "query position", 13,
                 picture::kInk, picture::Align::kCenter, true);
  }
  y += side + 66;
  double x = 84;
  for (int32_t w = 1; w <= std::min(most_weight, 6); ++w) {
    picture.box(x, y, 26, 15, weight_color(w));
    picture.text(x + 34, y + 12, fmt::format("weight {}", w), 13);
    x += 120;
  }
  picture.box(x, y, 26, 15, kMasked);
  picture.text(x + 34, y + 12, "computed, then masked", 13);
  picture.set_height(y + 40);
  return picture;
}

}  // namespace longstride::cli
