// The rules of the block patterns: what each requires of its fields, and its blocks as the intervals of one row, with
// the windows and distances that come nearest to a density.
#include "pattern/block_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "core/checked.h"
#include "core/philox.h"
#include "core/refuse.h"

namespace longstride::pattern {
namespace {

using core::ceil_divide;

// Windows and offsets are added to positions: below this nothing wraps.
constexpr int64_t kMostTokens = int64_t{1} << 60;

void require_between(const std::string& argument, int64_t value, int64_t least) {
  if (value < least || value > kMostTokens) {
    core::refuse(argument, least == 1 ? "must be positive" : "must not be negative", value);
  }
}

void require_density(double density) {
  if (!(density > 0 && density <= 1)) {
    core::refuse("density", "must be in (0, 1]", density,
                 "it is the share of blocks that is computed, 1 - sparsity_ratio");
  }
}

void require_one_of(const char* a, bool has_a, const char* b, bool has_b) {
  if (has_a == has_b) {
    core::refuse(fmt::format("{} and {}", a, b), "must be given one without the other", has_a ? "both" : "neither");
  }
}

void check(const LocalWindow& r, int64_t) {
  require_one_of("window", r.window.has_value(), "density", r.density.has_value());
  if (r.window) require_between("window", *r.window, 1);
  if (r.density) require_density(*r.density);
}

void check(const DilatedSparse& r, int64_t) {
  if (r.rates.empty()) core::refuse("rates", "cannot be empty", "[]", "give one distance in blocks, or one a head");
  for (size_t i = 0; i < r.rates.size(); ++i) require_between(fmt::format("rates[{}]", i), r.rates[i], 1);
  require_one_of("reach", r.reach.has_value(), "density", r.density.has_value());
  if (r.reach) require_between("reach", *r.reach, 0);
  if (r.density) require_density(*r.density);
}

void check(const GlobalLocal& r, int64_t) {
  require_between("window", r.window, 1);
  require_between("global_tokens", r.global_tokens, 0);
}

void check(const Strided& r, int64_t) { require_between("stride_blocks", r.stride_blocks, 1); }

void check(const Axial& r, int64_t) {
  if (r.grid_columns) require_between("grid_columns", *r.grid_columns, 1);
}

void check(const RandomBlocks& r, int64_t) { require_density(r.density); }

void check(const Hierarchical& r, int64_t block_size) {
  if (r.levels.empty()) core::refuse("levels", "cannot be empty", "[]", "give one {stride, window} a level");
  for (size_t i = 0; i < r.levels.size(); ++i) {
    const auto& [stride, window] = r.levels[i];
    require_between(fmt::format("levels[{}].stride", i), stride, 1);
    if (stride % block_size != 0) {
      core::refuse(fmt::format("levels[{}].stride", i),
                   fmt::format("must be a multiple of block_size ({})", block_size), stride,
                   fmt::format("the next is {}", core::ceil_divide(stride, block_size) * block_size));
    }
    if (window) require_between(fmt::format("levels[{}].window", i), *window, 1);
  }
}

void check(const SlidingWindow& r, int64_t) {
  if (r.left) require_between("left", *r.left, 0);
  if (r.right) require_between("right", *r.right, 0);
  require_between("sink_tokens", r.sink_tokens, 0);
}

void check(const BlockList& r, int64_t) {
  for (size_t i = 0; i < r.blocks.size(); ++i) {
    const Block& b = r.blocks[i];
    const auto refuse = [&](const char* what, const char* expected, int64_t got) {
      core::refuse(fmt::format("blocks[{}].{}", i, what), expected, got);
    };
    if (b.batch_row < -1) refuse("batch_row", "must be -1 (every row) or at least 0", b.batch_row);
    if (b.kv_head < -1) refuse("kv_head", "must be -1 (every KV head) or at least 0", b.kv_head);
    if (b.query_block < 0) refuse("query_block", "must not be negative", b.query_block);
    if (b.key_block < 0) refuse("key_block", "must not be negative", b.key_block);
  }
}

// A window of tokens on each side, in blocks.
int64_t half_window(int64_t window, int64_t block_size) { return ceil_divide(window, block_size) / 2; }

// Each rule becomes a value with row(i, out), which appends intervals in any order: these may overlap and go beyond the
// document.
struct WindowRows {
  int64_t half = 0;
  void row(int64_t i, std::vector<Interval>& out) const { out.push_back({i - half, i + half + 1}); }
};

struct DistanceRows {
  int64_t blocks = 0;
  int64_t step = 1;
  int64_t reach = 0;
  void row(int64_t i, std::vector<Interval>& out) const {
    const int64_t below = std::min(reach, i / step), above = std::min(reach, (blocks - 1 - i) / step);
    for (int64_t n = -below; n <= above; ++n) out.push_back({i + n * step, i + n * step + 1});
  }
};

struct GlobalRows {
  int64_t blocks = 0;
  int64_t half = 0;
  int64_t global = 0;
  void row(int64_t i, std::vector<Interval>& out) const {
    out.push_back({0, i < global ? blocks : global});
    out.push_back({i - half, i + half + 1});
  }
};

struct StridedRows {
  int64_t blocks = 0;
  int64_t stride = 1;
  void row(int64_t i, std::vector<Interval>& out) const {
    out.push_back({i - 1, i + 2});
    for (int64_t j = 0; j < blocks; j += stride) out.push_back({j, j + 1});
  }
};

struct AxialRows {
  int64_t blocks = 0;
  int64_t columns = 1;
  void row(int64_t i, std::vector<Interval>& out) const {
    out.push_back({i / columns * columns, i / columns * columns + columns});
    for (int64_t j = i % columns; j < blocks; j += columns) out.push_back({j, j + 1});
  }
};

struct HierarchicalRows {
  int64_t blocks = 0;
  int64_t block_size = 1;
  const std::vector<HierarchyLevel>* levels = nullptr;
  void row(int64_t i, std::vector<Interval>& out) const {
    out.push_back({i, i + 1});
    for (const HierarchyLevel& level : *levels) {
      if (i % (level.stride / block_size) != 0) continue;
      if (!level.window) {
        out.push_back({0, blocks});
        continue;
      }
      const int64_t half = half_window(*level.window, block_size);
      out.push_back({i - half, i + half + 1});
    }
  }
};

// Row i gets its diagonal and round(density * blocks of rows 0..i) - (what rows 0..i-1 got) - 1 others, drawn by
// Floyd's method (Bentley and Floyd, CACM 30(9), 1987): for t = n - c, ..., n - 1 a number in [0, t], or t if it was
// drawn before, among the n = (blocks of the row) - 1 others in order.
class RandomRows {
 public:
  // Causal rows are those of every longer sequence, whose later rows make up for what the first ones have too much.
  RandomRows(const Place& place, const RandomBlocks& rule) : place_(place), rule_(rule) {
    if (!place.causal) check_density(place, rule.density, place.blocks, pairs_in_all(place));
  }

  // Rows must be asked for in order; those before the first are counted and not drawn.
  void row(int64_t i, std::vector<Interval>& out) {
    while (row_ < i) take();
    const int64_t count = take() - 1;
    out.push_back({i, i + 1});
    const int64_t others = width(i) - 1;
    drawn_.clear();
    for (int64_t t = others - count; t < others; ++t) {
      const int64_t x = draw(i, t);
      const int64_t chosen = drawn_.insert(x).second ? x : t;
      if (chosen == t && x != t) drawn_.insert(t);
      const int64_t j = chosen < i ? chosen : chosen + 1;
      out.push_back({j, j + 1});
    }
  }

 private:
  int64_t width(int64_t i) const { return place_.causal ? i + 1 : place_.blocks; }

  // How many blocks row_ gets; goes on to the next row.
  int64_t take() {
    seen_ += width(row_);
    const auto target = static_cast<int64_t>(std::floor(rule_.density * seen_ + 0.5));
    const int64_t count = std::clamp<int64_t>(target - taken_, 1, width(row_));
    taken_ += count;
    ++row_;
    return count;
  }

  // Uniform in [0, t]: a 64-bit word scaled down.
  int64_t draw(int64_t i, int64_t t) const {
    const auto seed = static_cast<uint64_t>(rule_.seed);
    const core::PhiloxCounter words = core::philox4x32_10(
        {static_cast<uint32_t>(i), static_cast<uint32_t>(t), static_cast<uint32_t>(place_.kv_head), 0},
        {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    const uint64_t word = words[0] | static_cast<uint64_t>(words[1]) << 32;
    return static_cast<int64_t>((static_cast<unsigned __int128>(word) * static_cast<uint64_t>(t + 1)) >> 64);
  }

  const Place& place_;
  const RandomBlocks& rule_;
  int64_t row_ = 0;
  int64_t seen_ = 0;
  int64_t taken_ = 0;
  std::unordered_set<int64_t> drawn_;
};

// Of tokens.
struct SlidingRows {
  int64_t blocks = 0;
  const SlidingWindow& rule;
  void row(int64_t i, std::vector<Interval>& out) const {
    out.push_back({0, rule.sink_tokens});
    out.push_back({rule.left ? i - *rule.left : 0, rule.right ? i + *rule.right + 1 : blocks});
  }
};

struct ListRows {
  const Cells& cells;
  void row(int64_t i, std::vector<Interval>& out) const {
    const auto begin = std::lower_bound(cells.begin(), cells.end(), std::pair<int64_t, int64_t>{i, 0});
    for (auto cell = begin; cell != cells.end() && cell->first == i; ++cell) {
      out.push_back({cell->second, cell->second + 1});
    }
  }
};

template <class Rows>
BlockRows collect(Rows&& rows, const Place& place, int64_t row_begin, int64_t row_end) {
  BlockRows result{.first = row_begin};
  std::vector<Interval> row;
  for (int64_t i = row_begin; i < row_end; ++i) {
    row.clear();
    rows.row(i, row);
    normalise(row);
    const int64_t limit = place.causal ? i + 1 : place.blocks;
    for (const Interval& x : row) {
      const Interval clipped{std::max<int64_t>(0, x.begin), std::min(x.end, limit)};
      if (clipped.begin < clipped.end) result.intervals.push_back(clipped);
    }
    result.row_begin.push_back(std::ssize(result.intervals));
  }
  return result;
}

}  // namespace

void check(int64_t block_size, const BlockRule& rule) {
  require_between("block_size", block_size, 1);
  const auto check_all = [&]<class Rule>(const Rule& r) {
    constexpr std::optional<int64_t> only = fixed_block_size<Rule>();
    if (only && block_size != *only) {
      core::refuse("block_size", fmt::format("must be {} under {}, which is in tokens", *only, r.kName), block_size,
                   "local_window has windows of blocks");
    }
    check(r, block_size);
  };
  std::visit(check_all, rule);
}

Cells cells_of(const BlockList& list, int64_t batch_row, int64_t kv_head) {
  Cells cells;
  for (const Block& b : list.blocks) {
    if ((b.batch_row < 0 || b.batch_row == batch_row) && (b.kv_head < 0 || b.kv_head == kv_head)) {
      cells.emplace_back(b.query_block, b.key_block);
    }
  }
  std::sort(cells.begin(), cells.end());
  return cells;
}

void normalise(std::vector<Interval>& intervals) {
  std::sort(intervals.begin(), intervals.end());
  size_t kept = 0;
  for (const Interval& x : intervals) {
    if (x.begin >= x.end) continue;
    if (kept > 0 && x.begin <= intervals[kept - 1].end) {
      intervals[kept - 1].end = std::max(intervals[kept - 1].end, x.end);
    } else {
      intervals[kept++] = x;
    }
  }
  intervals.resize(kept);
}

BlockRows active_rows(const BlockPattern& pattern, const Place& place, int64_t row_begin, int64_t row_end) {
  const auto rows = [&](auto&& of) { return collect(of, place, row_begin, row_end); };
  struct Visitor {
    const Place& place;
    int64_t block_size;
    const decltype(rows)& collected;

    BlockRows operator()(const LocalWindow& r) const {
      return collected(WindowRows{r.window ? half_window(*r.window, block_size) : nearest_reach(place, *r.density, 1)});
    }
    BlockRows operator()(const DilatedSparse& r) const {
      const int64_t step = r.rates[place.kv_head % std::ssize(r.rates)];
      return collected(DistanceRows{place.blocks, step, r.reach ? *r.reach : nearest_reach(place, *r.density, step)});
    }
    BlockRows operator()(const GlobalLocal& r) const {
      return collected(
          GlobalRows{place.blocks, half_window(r.window, block_size), ceil_divide(r.global_tokens, block_size)});
    }
    BlockRows operator()(const Strided& r) const { return collected(StridedRows{place.blocks, r.stride_blocks}); }
    BlockRows operator()(const Axial& r) const {
      int64_t columns = r.grid_columns.value_or(0);
      if (columns == 0) {
        columns = std::max<int64_t>(1, std::llround(std::sqrt(place.blocks)));
        if (columns * columns < place.blocks) ++columns;
      }
      return collected(AxialRows{place.blocks, columns});
    }
    BlockRows operator()(const RandomBlocks& r) const { return collected(RandomRows(place, r)); }
    BlockRows operator()(const Hierarchical& r) const {
      return collected(HierarchicalRows{place.blocks, block_size, &r.levels});
    }
    BlockRows operator()(const SlidingWindow& r) const { return collected(SlidingRows{place.blocks, r}); }
    BlockRows operator()(const BlockList& r) const {
      if (place.cells != nullptr) return collected(ListRows{*place.cells});
      return collected(ListRows{cells_of(r, place.batch_row, place.kv_head)});
    }
  };
  return std::visit(Visitor{place, pattern.block_size(), rows}, pattern.rule());
}

}  // namespace longstride::pattern
