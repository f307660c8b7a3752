// describe(): a plan in words and a small table, for a person.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"

namespace longstride {
namespace {

std::string bytes_in_words(int64_t bytes) {
  if (bytes < 1024) return fmt::format("{} bytes", bytes);
  if (bytes < 1024 * 1024) return fmt::format("{:.1f} KiB", bytes / 1024.0);
  return fmt::format("{:.1f} MiB", bytes / (1024.0 * 1024));
}

// "1 query", "2 queries".
std::string counted(int64_t n, const char* one, const char* many) {
  return fmt::format("{} {}", n, n == 1 ? one : many);
}

// One line of the table: a level of a class.
std::string level_line(const PlanView& plan, const Level& level, int64_t number) {
  int64_t tiles = 0, stored = 0, rows = 0, runs = 0, heaviest = 0, merged = 0;
  double column_sum = 0;
  for_each_stored_tile(plan, level, [&](const Section& section, const Tile& tile) {
    ++stored;
    tiles += section.repeats;
    rows += tile.rows * section.repeats;
    runs += static_cast<int64_t>(tile.run_count) * section.repeats;
    for (const Run& run : plan.runs_of(tile)) {
      heaviest = std::max<int64_t>(heaviest, run.weight);
      column_sum += static_cast<double>(run.row_end - run.row_begin) * static_cast<double>(run.columns * run.residues) *
                    section.repeats;
    }
    for (const Merge& merge : plan.merges_of(tile)) merged += merge.rows * section.repeats;
  });
  const double columns = rows ? column_sum / rows : 0;
  return fmt::format("  {:>5}  {:<7}  {:>6}  {:>9}  {:>8}  {:>8}  {:>8}  {:>11.1f}  {:>10}  {:>9}\n", number,
                     level.parts == Parts::kOfBase ? "parts"
                     : level.partial               ? "partial"
                                                   : "base",
                     level.stride, rows, tiles, stored, runs, columns, heaviest, merged);
}

std::string class_table(const PlanView& plan, int64_t c, int64_t members) {
  const PlanCounts counts = count(plan, c);
  const bool forward = plan.direction == Direction::kForward;
  const char* column = forward ? "keys" : "queries";
  std::string text = fmt::format("class {}, {}: {:.1f} {} seen and {:.1f} computed a {}\n", c,
                                 counted(members, "(batch row, KV head)", "of (batch row, KV head)"),
                                 counts.seen_per_row(), column, counts.computed_per_row(), forward ? "query" : "key");
  text += "  level  kind     stride       rows     tiles    stored      runs  columns/row  max weight     merged\n";
  const PlanClass& plan_class = plan.classes[c];
  int64_t number = 0;
  for (const Level& level : plan.levels_of(plan_class)) text += level_line(plan, level, number++);
  if (plan_class.partial_rows > 0)
    text += fmt::format("  {} kept for merging\n", counted(plan_class.partial_rows, "row", "rows"));
  if (counts.split_tiles > 0)
    text += fmt::format("  {} cut into {} parts\n", counted(counts.split_tiles, "tile", "tiles"), counts.parts);
  return text;
}

}  // namespace

std::string describe(const PlanView& plan, const Extent& e) {
  const bool forward = plan.direction == Direction::kForward;
  std::string text =
      fmt::format("{} plan: {} on {}, {}, {} on {}; {}, tiles of {} rows, {}\n", forward ? "forward" : "transposed",
                  counted(e.len_q, "query", "queries"), counted(e.len_k, "key", "keys"),
                  counted(e.batch, "batch row", "batch rows"), counted(e.heads, "head", "heads"),
                  counted(e.kv_heads, "KV head", "KV heads"), counted(std::ssize(plan.classes), "class", "classes"),
                  plan.tile_rows, bytes_in_words(plan.bytes()));
  if (e.query_start != 0) text += fmt::format("query 0 stands at position {}\n", e.query_start);
  if (!e.cu_seqlens.empty()) {
    text +=
        fmt::format("{} packed one after another\n", counted(std::ssize(e.cu_seqlens) - 1, "document", "documents"));
  }
  if (!e.lengths.empty()) {
    const auto [least, most] = std::minmax_element(e.lengths.begin(), e.lengths.end());
    text += fmt::format("lengths from {} to {}\n", *least, *most);
  }
  std::map<int32_t, int64_t> members;
  for (const int32_t c : plan.class_of) ++members[c];
  // Classes differ by offsets only as a rule; eight tell the story.
  constexpr size_t kShown = 8;
  for (size_t c = 0; c < std::min(plan.classes.size(), kShown); ++c) {
    text += class_table(plan, c, members[static_cast<int32_t>(c)]);
  }
  if (plan.classes.size() > kShown) text += fmt::format("and {} classes more\n", plan.classes.size() - kShown);
  const PlanCounts total = count(plan, e);
  text += fmt::format("in all: {} tiles, {} runs, {:.1f} {} computed a {}, of which {:.1f} are seen\n", total.tiles,
                      total.runs, total.computed_per_row(), forward ? "keys" : "queries", forward ? "query" : "key",
                      total.seen_per_row());
  return text;
}

}  // namespace longstride
