// The union of the levels' pairs. What a run shows to rows of its tile is a block: a progression of rows, a progression
// of columns, and perhaps two diagonals. Two blocks meet in a block, whose pairs are counted by a formula; so
//   |A or B or C ...| = sum over levels l of |A_l| - |A_l and (A_0 or ... or A_l-1)|
// is taken tile by tile, level by level, and nothing is ever listed pair by pair.
#include "plan/seen_pairs.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/checked.h"
#include "longstride/pattern/sight.h"
#include "longstride/plan/walk.h"

namespace longstride::plan {
namespace {

// Each further level may double the work. Patterns have one to three; those with more levels than this (many groups of
// large rates, that no two can share) have few pairs, which are then listed.
constexpr size_t kMostLevels = 8;

// x with a * x = 1 modulo m; a and m share no factor.
int64_t inverse(int64_t a, int64_t m) {
  int64_t r0 = m, r1 = a % m, x0 = 0, x1 = 1;
  while (r1 > 0) {
    const int64_t quotient = r0 / r1;
    std::swap(r0 -= quotient * r1, r1);
    std::swap(x0 -= quotient * x1, x1);
  }
  return core::floor_modulo(x0, m);
}

Progression meet(const Progression& a, const Progression& b) {
  if (a.count == 0 || b.count == 0) return {};
  if (b.count == 1) return a.within(b.first, b.first);
  if (a.count == 1) return b.within(a.first, a.first);
  if (a.step < b.step) return meet(b, a);
  const int64_t divisor = std::gcd(a.step, b.step);
  if ((a.first - b.first) % divisor != 0) return {};
  if (divisor == b.step) return a.within(b.first, b.last());
  // a.first + t * a.step is in b for t = t0 modulo b.step / divisor.
  const int64_t modulus = b.step / divisor;
  const auto ahead = static_cast<__int128>(core::floor_modulo((b.first - a.first) / divisor, modulus));
  const auto t0 = static_cast<int64_t>(ahead * inverse(a.step / divisor, modulus) % modulus);
  if (t0 >= a.count) return {};
  const Progression shared{a.first + t0 * a.step, core::saturating_multiply(a.step, modulus),
                           (a.count - 1 - t0) / modulus + 1};
  return shared.within(b.first, b.last());
}

struct TileRows {
  Progression rows;
  PlacedTile placed;
};

// Rows and columns of one step, and the pairs of them with begin <= column - row < end.
struct Block {
  Progression rows;
  Progression columns;
  int64_t begin = 0;
  int64_t end = 0;
};

class Union {
 public:
  explicit Union(const PlanView& plan) : plan_(plan) {}

  void add_level(int64_t stride, Parts parts, std::vector<TileRows> tiles) {
    std::erase_if(tiles, [](const TileRows& t) { return t.placed.tile->run_count == 0; });
    if (tiles.empty()) return;
    std::sort(tiles.begin(), tiles.end(), [stride](const TileRows& a, const TileRows& b) {
      return before(line(a.rows.first, stride), a.rows.first, line(b.rows.first, stride), b.rows.first);
    });
    levels_.push_back({stride, parts != Parts::kNone, std::move(tiles)});
  }

  int64_t count() const {
    if (levels_.size() > kMostLevels) return listed();
    int64_t pairs = 0;
    std::vector<Block> blocks;
    for (size_t l = 0; l < levels_.size(); ++l) {
      for (const TileRows& tile : levels_[l].tiles) {
        blocks.clear();
        for_each_block(tile, [&](const Block& block) { blocks.push_back(block); });
        pairs += beyond(tile.rows, blocks, l);
      }
    }
    return pairs;
  }

 private:
  struct PlacedLevel {
    int64_t stride = 1;
    bool shares_rows = false;     // tiles may have the same rows, and then share no pair
    std::vector<TileRows> tiles;  // by line, along each line by position
  };
  static constexpr int64_t kFar = std::numeric_limits<int64_t>::max();

  static int64_t line(int64_t position, int64_t stride) { return position % stride; }
  static bool before(int64_t line_a, int64_t row_a, int64_t line_b, int64_t row_b) {
    return line_a != line_b ? line_a < line_b : row_a < row_b;
  }

  // What each run and class of a tile shows.
  template <class Visit>
  void for_each_block(const TileRows& tile, const Visit& visit) const {
    const int64_t stride = tile.rows.step;
    for (const Run& run : plan_.runs_of(*tile.placed.tile)) {
      const Progression rows{tile.rows.first + run.row_begin * stride, stride, run.row_end - run.row_begin};
      for (int64_t c = 0; c < run.residues; ++c) {
        const int64_t column0 = tile.placed.column(run, c, 0);
        // j + begin_diagonal <= i < j + end_diagonal, times the stride.
        const int64_t ahead = column0 - tile.rows.first;
        const int64_t begin = run.begin_diagonal(plan_.direction), end = run.end_diagonal(plan_.direction);
        visit(Block{rows,
                    {column0, stride, run.columns},
                    begin <= -Run::kEverything ? -kFar : ahead + begin * stride,
                    end >= Run::kEverything ? kFar : ahead + end * stride});
      }
    }
  }

  // How many pairs of the blocks, which are disjoint and have rows among `rows`, are in none of levels [0, end).
  int64_t beyond(const Progression& rows, const std::vector<Block>& blocks, size_t end) const {
    int64_t pairs = 0;
    for (const Block& block : blocks) pairs += size(block);
    std::vector<Block> met;
    for (size_t l = 0; l < end; ++l) {
      for_each_sharing(levels_[l], rows, [&](const TileRows& tile, const Progression& shared) {
        met.clear();
        meet_tile(tile, blocks, met);
        if (!met.empty()) pairs -= beyond(shared, met, l);
      });
    }
    return pairs;
  }

  // Calls visit(tile, the rows that it shares with `rows`) for the tiles that share some.
  template <class Visit>
  void for_each_sharing(const PlacedLevel& level, const Progression& rows, const Visit& visit) const {
    const int64_t lines = level.stride / std::gcd(level.stride, rows.step);
    for (int64_t n = 0; n < std::min(lines, rows.count); ++n) {
      const int64_t position = rows.first + n * rows.step;
      const int64_t its_line = line(position, level.stride);
      auto tile = std::upper_bound(level.tiles.begin(), level.tiles.end(), position, [&](int64_t p, const TileRows& t) {
        return before(its_line, p, line(t.rows.first, level.stride), t.rows.first);
      });
      if (tile != level.tiles.begin()) --tile;
      // Before the last tile that begins at or before the position others may hold it too.
      while (level.shares_rows && tile != level.tiles.begin() && line((tile - 1)->rows.first, level.stride) == its_line)
        --tile;
      for (; tile != level.tiles.end(); ++tile) {
        const int64_t tile_line = line(tile->rows.first, level.stride);
        if (tile_line > its_line || (tile_line == its_line && tile->rows.first > rows.last())) break;
        if (tile_line < its_line) continue;
        const Progression shared = meet(rows, tile->rows);
        if (shared.count > 0) visit(*tile, shared);
      }
    }
  }

  void meet_tile(const TileRows& tile, const std::vector<Block>& blocks, std::vector<Block>& met) const {
    int64_t low = kFar, high = -1;
    for (const Block& block : blocks) {
      low = std::min(low, block.columns.first);
      high = std::max(high, block.columns.last());
    }
    for_each_block(tile, [&](const Block& other) {
      if (other.columns.first > high || other.columns.last() < low) return;
      for (const Block& block : blocks) {
        if (other.columns.first > block.columns.last() || other.columns.last() < block.columns.first) continue;
        const Block both{meet(block.rows, other.rows), meet(block.columns, other.columns),
                         std::max(block.begin, other.begin), std::min(block.end, other.end)};
        if (size(both) > 0) met.push_back(both);
      }
    });
  }

  // Rows and columns of a block have one step: both are made of the same levels' strides.
  static int64_t size(const Block& b) { return std::max<int64_t>(0, early(b, b.end) - early(b, b.begin)); }

  // Of all rows and columns of a block, the pairs with column - row < bound.
  static int64_t early(const Block& b, int64_t bound) {
    const int64_t all = b.rows.count * b.columns.count;
    if (all == 0 || bound == -kFar) return 0;
    if (bound == kFar) return all;
    // Row j has the columns c with c - row0 - j * step < bound before it: clamp(first + j, 0, columns) many.
    const int64_t step = b.columns.count > 1 ? b.columns.step : b.rows.step;
    const int64_t ahead = bound - b.columns.first + b.rows.first;
    const int64_t first = -core::floor_divide(-ahead, step);
    const int64_t rising_begin = std::clamp<int64_t>(-first, 0, b.rows.count);
    const int64_t rising_end = std::clamp<int64_t>(b.columns.count - first, rising_begin, b.rows.count);
    const int64_t rising = rising_end - rising_begin;
    return rising * (first + rising_begin) + rising * (rising - 1) / 2 + (b.rows.count - rising_end) * b.columns.count;
  }

  int64_t listed() const {
    std::vector<PlacedRow> rows;
    for (const PlacedLevel& level : levels_) {
      for (const auto& [tile_rows, placed] : level.tiles) {
        for (int32_t j = 0; j < tile_rows.count; ++j) rows.push_back({placed, j, placed.row(j)});
      }
    }
    std::sort(rows.begin(), rows.end(), [](const PlacedRow& a, const PlacedRow& b) { return a.position < b.position; });
    int64_t pairs = 0;
    std::vector<int64_t> columns;
    for (size_t i = 0; i < rows.size();) {
      const int64_t position = rows[i].position;
      columns.clear();
      for (; i < rows.size() && rows[i].position == position; ++i) {
        for_each_pair(plan_, rows[i], [&](int64_t column, int32_t) { columns.push_back(column); });
      }
      std::sort(columns.begin(), columns.end());
      pairs += std::unique(columns.begin(), columns.end()) - columns.begin();
    }
    return pairs;
  }

  const PlanView& plan_;
  std::vector<PlacedLevel> levels_;
};

// Whether all sections that repeat do so alike and stand apart from those that do not, so that one period tells of all.
bool repeat_alike(const PlanView& plan, const PlanClass& plan_class) {
  const Section* model = nullptr;
  int64_t begin = std::numeric_limits<int64_t>::max(), last = 0;
  const auto for_each_stored = [&](const auto& visit) {
    for (const Level& level : plan.levels_of(plan_class)) {
      for_each_stored_tile(plan, level, [&](const Section& s, const Tile& tile) {
        visit(s, tile.row0, tile.row0 + (tile.rows - 1) * level.stride);
      });
    }
  };
  bool alike = true;
  for_each_stored([&](const Section& s, int64_t row0, int64_t last_row) {
    if (s.repeats == 1) return;
    if (model == nullptr) model = &s;
    alike = alike && s.repeats == model->repeats && s.shift == model->shift;
    begin = std::min(begin, row0);
    last = std::max(last, last_row);
  });
  if (model == nullptr) return true;
  const int64_t end = begin + model->repeats * model->shift;
  alike = alike && last - begin < model->shift;
  for_each_stored([&](const Section& s, int64_t row0, int64_t last_row) {
    alike = alike && (s.repeats > 1 || row0 >= end || last_row < begin);
  });
  return alike;
}

}  // namespace

int64_t seen_pairs(const PlanView& plan, const PlanClass& plan_class) {
  const bool alike = repeat_alike(plan, plan_class);
  int64_t pairs = 0, repeats = 1;
  // Sections that repeat, then (or, if they are not alike, together) those that do not.
  for (const bool repeating : {true, false}) {
    Union all(plan);
    // The base level first: it has the most tiles, and is then looked up for what the others have.
    for (int32_t l = plan_class.level_count; l-- > 0;) {
      const Level& level = plan.levels[plan_class.level_begin + l];
      std::vector<TileRows> tiles;
      for (const Section& s : plan.sections_of(level)) {
        if (alike ? (s.repeats > 1) != repeating : repeating) continue;
        for (int64_t n = 0; n < (alike ? 1 : s.repeats); ++n) {
          for (const Tile& tile : plan.tiles_of(s)) {
            const PlacedTile placed{&level, &tile, n, n * s.shift};
            tiles.push_back({{placed.row(0), level.stride, tile.rows}, placed});
          }
        }
        repeats = alike ? s.repeats : 1;
      }
      all.add_level(level.stride, level.parts, std::move(tiles));
    }
    pairs += repeats * all.count();
  }
  return pairs;
}

}  // namespace longstride::plan
