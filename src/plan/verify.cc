// verify(): a plan against the definition of its pattern, pair by pair. Called by tests and by `longstride show`. First
// the structure (nothing points outside its array, slots and merges fit together), then the numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "longstride/pattern.h"
#include "longstride/pattern/sight.h"
#include "longstride/plan.h"
#include "longstride/plan/walk.h"

namespace longstride {
namespace {

// Thrown inside this file only, at the first thing that is wrong.
struct Wrong {
  std::string what;
};

template <typename... Args>
void require(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) throw Wrong{fmt::format(format, std::forward<Args>(args)...)};
}

// [begin, begin + count) lies in an array of `size`.
void require_range(const char* what, int64_t begin, int64_t count, size_t size) {
  require(begin >= 0 && count >= 0 && begin + count <= static_cast<int64_t>(size),
          "{} [{}, {}) lie outside the plan's {}", what, begin, begin + count, size);
}

// The rows and columns that a plan may name.
struct Bounds {
  int64_t row_begin, row_end, column_begin, column_end;
};

class Checker {
 public:
  Checker(const PlanView& plan, const Pattern& pattern, const Extent& extent)
      : plan_(plan), pattern_(pattern), e_(extent), forward_(plan.direction == Direction::kForward) {
    const int64_t query_end = e_.query_start + e_.len_q;
    bounds_ =
        forward_ ? Bounds{e_.query_start, query_end, 0, e_.len_k} : Bounds{0, e_.len_k, e_.query_start, query_end};
    shown_by_.assign(e_.len_k, 0);
  }

  void run() {
    require(std::ssize(plan_.class_of) == e_.batch * e_.kv_heads,
            "class_of has {} entries for {} batch rows and {} KV heads", plan_.class_of.size(), e_.batch, e_.kv_heads);
    require(plan_.tile_rows >= 1 && plan_.tile_rows <= 32767, "tile_rows is {}", plan_.tile_rows);
    for (size_t t = 0; t < plan_.tiles.size(); ++t) check_tile(t);
    for (size_t c = 0; c < plan_.classes.size(); ++c) executed_.push_back(check_class(c));
    for (int64_t b = 0; b < e_.batch; ++b) {
      for (int64_t j = 0; j < e_.kv_heads; ++j) check_pairs(b, j);
    }
  }

 private:
  void check_tile(size_t t) {
    const Tile& tile = plan_.tiles[t];
    require(tile.rows >= 1 && tile.rows <= plan_.tile_rows, "tile {} has {} rows, tile_rows is {}", t, tile.rows,
            plan_.tile_rows);
    require_range("runs", tile.run_begin, tile.run_count, plan_.runs.size());
    require_range("phantoms", tile.phantom_begin, tile.phantom_count, plan_.phantoms.size());
    require_range("merges", tile.merge_begin, tile.merge_count, plan_.merges.size());
    for (const Run& run : plan_.runs_of(tile)) {
      require(run.columns >= 1 && run.residues >= 1 && run.weight >= 1,
              "a run of tile {} has {} columns, {} residues, weight {}", t, run.columns, run.residues, run.weight);
      require(run.row_begin >= 0 && run.row_begin < run.row_end && run.row_end <= tile.rows,
              "a run of tile {} serves rows [{}, {}) of {}", t, run.row_begin, run.row_end, tile.rows);
      require(run.buffer == 0, "a run of tile {} reads buffer {}, and there is only the local tensor", t, run.buffer);
    }
    for (const Phantoms& some : plan_.phantoms_of(tile)) {
      require(forward_, "tile {} of a transposed plan has phantoms", t);
      require(some.count >= 1 && some.row_begin >= 0 && some.row_begin < some.row_end && some.row_end <= tile.rows,
              "tile {} gives {} phantoms to rows [{}, {}) of {}", t, some.count, some.row_begin, some.row_end,
              tile.rows);
    }
    for (const Merge& merge : plan_.merges_of(tile)) {
      require(merge.rows >= 1 && merge.row_step >= 1 && merge.row_begin >= 0 &&
                  merge.row_begin + int64_t{merge.rows - 1} * merge.row_step < tile.rows,
              "a merge of tile {} names {} rows from {} by {}, of {}", t, merge.rows, merge.row_begin, merge.row_step,
              tile.rows);
    }
  }

  void check_columns(const PlacedTile& placed) const {
    const int64_t stride = placed.level->stride;
    for (const Run& run : plan_.runs_of(*placed.tile)) {
      require(run.residues == 1 || (run.residue_step > 0 && (run.residues - 1) * run.residue_step < stride),
              "{} residues by {} do not fit the stride {}", run.residues, run.residue_step, stride);
      const int64_t first = placed.column(run, 0, 0);
      const int64_t last = placed.column(run, run.residues - 1, run.columns - 1);
      require(first >= bounds_.column_begin && last < bounds_.column_end, "a run names columns {}..{} of [{}, {})",
              first, last, bounds_.column_begin, bounds_.column_end);
      if (!run.grows()) continue;
      require(forward_ && pattern_.causal() && e_.len_q == 1, "a run grows, and this is no plan of one causal query");
      require(placed.column(run, 0, run.columns) > placed.row(0), "a run that grows ends at {}, before the query at {}",
              last, placed.row(0));
    }
  }

  // Rows, slots and merges of one class; returns its executed rows in order of position.
  std::vector<PlacedRow> check_class(int64_t c) {
    const PlanClass& plan_class = plan_.classes[c];
    require_range("levels", plan_class.level_begin, plan_class.level_count, plan_.levels.size());
    require(plan_class.level_count >= 1, "class {} has no level", c);
    require(plan_class.partial_rows >= 0, "class {} has {} partial rows", c, plan_class.partial_rows);
    std::vector<PlacedRow> executed;
    std::vector<int64_t> slot_of(plan_class.partial_rows, kEmpty);  // the position that a slot holds
    for (int64_t n = 0; n < plan_class.level_count; ++n) {
      const Level& level = plan_.levels[plan_class.level_begin + n];
      const bool base = n + 1 == plan_class.level_count;
      require(level.partial != base, "class {}: the last level and only it must be the base, level {} is not", c, n);
      require(level.stride >= 1, "class {}: level {} has stride {}", c, n, level.stride);
      require(level.partial || level.parts == Parts::kNone, "class {}: the base level {} is one of parts", c, n);
      require(level.parts != Parts::kOfBase || (n + 2 == plan_class.level_count &&
                                                plan_.levels[plan_class.level_begin + n + 1].stride == level.stride),
              "class {}: level {} of parts of the base does not stand before it at its stride", c, n);
      const int64_t first = std::ssize(executed);
      check_level(c, level, executed, slot_of);
      std::vector<int64_t> positions;
      for (size_t i = first; i < executed.size(); ++i) positions.push_back(executed[i].position);
      std::sort(positions.begin(), positions.end());
      const auto twice = std::adjacent_find(positions.begin(), positions.end());
      require(level.parts != Parts::kNone || twice == positions.end(), "class {}: level {} has row {} twice", c, n,
              twice == positions.end() ? 0 : *twice);
      const int64_t rows = std::ssize(positions);
      require(!base || rows == bounds_.row_end - bounds_.row_begin, "class {}: the base level has {} rows of {}", c,
              rows, bounds_.row_end - bounds_.row_begin);
    }
    for (size_t slot = 0; slot < slot_of.size(); ++slot) {
      require(slot_of[slot] == kEmpty || slot_of[slot] == kMerged, "class {}: slot {} (row {}) is never merged", c,
              slot, slot_of[slot]);
    }
    std::sort(executed.begin(), executed.end(),
              [](const PlacedRow& a, const PlacedRow& b) { return a.position < b.position; });
    return executed;
  }

  void check_level(int64_t c, const Level& level, std::vector<PlacedRow>& executed, std::vector<int64_t>& slot_of) {
    require_range("sections", level.section_begin, level.section_count, plan_.sections.size());
    for (const Section& section : plan_.sections_of(level)) {
      require_range("tiles", section.tile_begin, section.tile_count, plan_.tiles.size());
      require(section.repeats >= 1, "class {}: a section repeats {} times", c, section.repeats);
    }
    for_each_tile(plan_, level, [&](const PlacedTile& placed) {
      check_columns(placed);
      for (int32_t j = 0; j < placed.tile->rows; ++j) {
        const int64_t position = placed.row(j), slot = placed.slot + j;
        require(position >= bounds_.row_begin && position < bounds_.row_end,
                "class {}: a tile has row {} outside [{}, {})", c, position, bounds_.row_begin, bounds_.row_end);
        executed.push_back({placed, j, position});
        if (!level.partial) continue;
        require(slot >= 0 && slot < std::ssize(slot_of), "class {}: row {} is kept in slot {} of {}", c, position, slot,
                slot_of.size());
        require(slot_of[slot] == kEmpty, "class {}: rows {} and {} share slot {}", c, slot_of[slot], position, slot);
        slot_of[slot] = position;
      }
      check_merges(c, placed, slot_of);
    });
  }

  // Marks the slots that a tile takes in; each must hold a row that is the tile's own.
  void check_merges(int64_t c, const PlacedTile& placed, std::vector<int64_t>& slot_of) const {
    require(!placed.level->partial || placed.tile->merge_count == 0, "class {}: a tile of a partial level merges", c);
    for (const Merge& merge : plan_.merges_of(*placed.tile)) {
      for (int64_t n = 0; n < merge.rows; ++n) {
        const int64_t position = placed.row(merge.row_begin + n * merge.row_step);
        const int64_t slot = merge.slot_at(n, placed.repeat);
        require(slot >= 0 && slot < std::ssize(slot_of), "class {}: row {} merges slot {} of {}", c, position, slot,
                slot_of.size());
        require(slot_of[slot] != kMerged, "class {}: row {} merges slot {}, which was merged before", c, position,
                slot);
        require(slot_of[slot] == position, "class {}: row {} merges slot {}, which holds {}", c, position, slot,
                slot_of[slot] == kEmpty ? "nothing" : fmt::format("row {}", slot_of[slot]));
        slot_of[slot] = kMerged;
      }
    }
  }

  void check_pairs(int64_t b, int64_t j) {
    const int64_t c = plan_.class_of[b * e_.kv_heads + j];
    require(c >= 0 && c < std::ssize(plan_.classes), "class_of names class {} of {}", c, plan_.classes.size());
    const Sight sight(pattern_, e_, b, j);
    const std::vector<PlacedRow>& executed = executed_[c];
    std::vector<int64_t> weights(e_.len_k);  // by column position
    std::vector<Progression> defined;
    size_t next = 0;
    for (int64_t row = bounds_.row_begin; row < bounds_.row_end; ++row) {
      std::fill(weights.begin(), weights.end(), 0);
      int64_t phantoms = 0;
      const size_t first = next;
      for (; next < executed.size() && executed[next].position == row; ++next) {
        phantoms += phantom_count(plan_, executed[next]);
        for_each_pair(plan_, executed[next], [&](int64_t column, int32_t weight) { weights[column] += weight; });
      }
      check_parts(c, std::span(executed).subspan(first, next - first));
      const int64_t z = forward_ ? sight.phantoms(row) : 0;
      require(phantoms == z, "batch row {}, KV head {}: query {} has {} phantoms, must have {}", b, j, row, phantoms,
              z);
      defined.clear();
      forward_ ? sight.keys(row, defined) : sight.queries(row, defined);
      for (const Progression& columns : defined) {
        for (int64_t n = 0; n < columns.count; ++n) --weights[columns.first + n * columns.step];
      }
      for (int64_t column = bounds_.column_begin; column < bounds_.column_end; ++column) {
        if (weights[column] == 0) continue;
        const int64_t q = forward_ ? row : column, k = forward_ ? column : row;
        const int64_t m = sight.multiplicity(q, k);
        require(false, "batch row {}, KV head {}: query {} and key {} have weight {}, must have {}", b, j, q, k,
                weights[column] + m, m);
      }
    }
  }

  // The parts of a tile share no pair. `same_row`: all of one position.
  void check_parts(int64_t c, std::span<const PlacedRow> same_row) {
    for (const Level& level : plan_.levels_of(plan_.classes[c])) {
      if (level.parts == Parts::kNone) continue;
      for (const PlacedRow& at : same_row) {
        if (at.placed.level != &level) continue;
        ++part_;
        for_each_pair(plan_, at, [&](int64_t column, int32_t) {
          require(shown_by_[column] <= first_part_ || shown_by_[column] == part_,
                  "class {}: two parts show row {} column {}", c, at.position, column);
          shown_by_[column] = part_;
        });
      }
      first_part_ = part_;
    }
  }

  static constexpr int64_t kEmpty = -1;
  static constexpr int64_t kMerged = -2;

  const PlanView& plan_;
  const Pattern& pattern_;
  const Extent& e_;
  const bool forward_;
  Bounds bounds_{};
  std::vector<int64_t> shown_by_;  // by column: the row of a part that showed it last, as a running number
  int64_t part_ = 0;
  int64_t first_part_ = 0;                        // up to here they are of other levels and rows
  std::vector<std::vector<PlacedRow>> executed_;  // by class
};

}  // namespace

std::string verify(const PlanView& plan, const Pattern& pattern, const Extent& extent) {
  extent.validate();
  try {
    Checker(plan, pattern, extent).run();
  } catch (const Wrong& wrong) {
    return wrong.what;
  }
  return "";
}

}  // namespace longstride
