// verify(): a plan against the definition of its pattern, pair by pair. Called by tests and by `longstride show`. First
// the structure (nothing points outside its array, slots and merges fit together), then the numbers.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/checked.h"
#include "longstride/pattern.h"
#include "longstride/plan.h"
#include "pattern/block_rows.h"

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

// One executed row of a tile.
struct Executed {
  int64_t position = 0;
  int64_t shift = 0;
  int64_t stride = 1;
  uint32_t tile = 0;
  int32_t index = 0;
};

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
  }

  void run() {
    require(static_cast<int64_t>(plan_.class_of.size()) == e_.batch * e_.kv_heads,
            "class_of has {} entries for {} batch rows and {} KV heads", plan_.class_of.size(), e_.batch, e_.kv_heads);
    require(plan_.tile_rows >= 1 && plan_.tile_rows <= 32767, "tile_rows is {}", plan_.tile_rows);
    for (size_t t = 0; t < plan_.tiles.size(); ++t) check_tile(t);
    for (size_t c = 0; c < plan_.classes.size(); ++c) executed_.push_back(check_class(static_cast<int64_t>(c)));
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
    for (const Run& run : plan_.runs.subspan(tile.run_begin, tile.run_count)) {
      require(run.columns >= 1 && run.classes >= 1 && run.weight >= 1,
              "a run of tile {} has {} columns, {} classes, weight {}", t, run.columns, run.classes, run.weight);
      require(run.row_begin >= 0 && run.row_begin < run.row_end && run.row_end <= tile.rows,
              "a run of tile {} serves rows [{}, {}) of {}", t, run.row_begin, run.row_end, tile.rows);
      require(run.buffer == 0, "a run of tile {} reads buffer {}, and there is only the local tensor", t, run.buffer);
    }
    for (const Phantoms& some : plan_.phantoms.subspan(tile.phantom_begin, tile.phantom_count)) {
      require(forward_, "tile {} of a transposed plan has phantoms", t);
      require(some.count >= 1 && some.row_begin >= 0 && some.row_begin < some.row_end && some.row_end <= tile.rows,
              "tile {} gives {} phantoms to rows [{}, {}) of {}", t, some.count, some.row_begin, some.row_end,
              tile.rows);
    }
    for (const Merge& merge : plan_.merges.subspan(tile.merge_begin, tile.merge_count)) {
      require(merge.rows >= 1 && merge.row_step >= 1 && merge.row_begin >= 0 &&
                  merge.row_begin + int64_t{merge.rows - 1} * merge.row_step < tile.rows,
              "a merge of tile {} names {} rows from {} by {}, of {}", t, merge.rows, merge.row_begin, merge.row_step,
              tile.rows);
    }
  }

  void check_columns(const Tile& tile, int64_t stride, int64_t shift) const {
    for (const Run& run : plan_.runs.subspan(tile.run_begin, tile.run_count)) {
      require(run.classes == 1 || (run.class_step > 0 && (run.classes - 1) * run.class_step < stride),
              "{} classes by {} do not fit the stride {}", run.classes, run.class_step, stride);
      const int64_t first = run.column0 + shift;
      const int64_t last = first + (run.columns - 1) * stride + (run.classes - 1) * run.class_step;
      require(first >= bounds_.column_begin && last < bounds_.column_end, "a run names columns {}..{} of [{}, {})",
              first, last, bounds_.column_begin, bounds_.column_end);
    }
  }

  // Rows, slots and merges of one class; returns its executed rows in order of position.
  std::vector<Executed> check_class(int64_t c) {
    const PlanClass& its = plan_.classes[c];
    require_range("levels", its.level_begin, its.level_count, plan_.levels.size());
    require(its.level_count >= 1, "class {} has no level", c);
    require(its.partial_rows >= 0, "class {} has {} partial rows", c, its.partial_rows);
    std::vector<Executed> executed;
    std::vector<int64_t> slot_of(its.partial_rows, kEmpty);  // the position that a slot holds
    for (int64_t n = 0; n < its.level_count; ++n) {
      const Level& level = plan_.levels[its.level_begin + n];
      const bool base = n + 1 == its.level_count;
      require(level.partial != base, "class {}: the last level and only it must be the base, level {} is not", c, n);
      require(level.stride >= 1, "class {}: level {} has stride {}", c, n, level.stride);
      const auto first = static_cast<int64_t>(executed.size());
      check_level(c, level, executed, slot_of);
      std::vector<int64_t> positions;
      for (size_t i = first; i < executed.size(); ++i) positions.push_back(executed[i].position);
      std::sort(positions.begin(), positions.end());
      const auto twice = std::adjacent_find(positions.begin(), positions.end());
      require(twice == positions.end(), "class {}: level {} has row {} twice", c, n,
              twice == positions.end() ? 0 : *twice);
      const auto rows = static_cast<int64_t>(positions.size());
      require(!base || rows == bounds_.row_end - bounds_.row_begin, "class {}: the base level has {} rows of {}", c,
              rows, bounds_.row_end - bounds_.row_begin);
    }
    for (size_t slot = 0; slot < slot_of.size(); ++slot) {
      require(slot_of[slot] == kEmpty || slot_of[slot] == kMerged, "class {}: slot {} (row {}) is never merged", c,
              slot, slot_of[slot]);
    }
    std::sort(executed.begin(), executed.end(),
              [](const Executed& a, const Executed& b) { return a.position < b.position; });
    return executed;
  }

  void check_level(int64_t c, const Level& level, std::vector<Executed>& executed, std::vector<int64_t>& slot_of) {
    require_range("sections", level.section_begin, level.section_count, plan_.sections.size());
    for (const Section& section : plan_.sections.subspan(level.section_begin, level.section_count)) {
      require_range("tiles", section.tile_begin, section.tile_count, plan_.tiles.size());
      require(section.repeats >= 1, "class {}: a section repeats {} times", c, section.repeats);
      for (int64_t n = 0; n < section.repeats; ++n) {
        for (int64_t t = 0; t < section.tile_count; ++t) {
          const auto index = static_cast<uint32_t>(section.tile_begin + t);
          const Tile& tile = plan_.tiles[index];
          const int64_t shift = n * section.shift;
          check_columns(tile, level.stride, shift);
          const int64_t slot = section.slot_begin + (n * section.tile_count + t) * plan_.tile_rows;
          for (int32_t j = 0; j < tile.rows; ++j) {
            const int64_t position = tile.row0 + j * level.stride + shift;
            require(position >= bounds_.row_begin && position < bounds_.row_end,
                    "class {}: a tile has row {} outside [{}, {})", c, position, bounds_.row_begin, bounds_.row_end);
            executed.push_back({position, shift, level.stride, index, j});
            if (!level.partial) continue;
            require(slot + j >= 0 && slot + j < static_cast<int64_t>(slot_of.size()),
                    "class {}: row {} is kept in slot {} of {}", c, position, slot + j, slot_of.size());
            require(slot_of[slot + j] == kEmpty, "class {}: rows {} and {} share slot {}", c, slot_of[slot + j],
                    position, slot + j);
            slot_of[slot + j] = position;
          }
          check_merges(c, level, tile, n, shift, slot_of);
        }
      }
    }
  }

  // Marks the slots that a tile takes in; each must hold a row that is the tile's own.
  void check_merges(int64_t c, const Level& level, const Tile& tile, int64_t repeat, int64_t shift,
                    std::vector<int64_t>& slot_of) const {
    require(!level.partial || tile.merge_count == 0, "class {}: a tile of a partial level merges", c);
    for (const Merge& merge : plan_.merges.subspan(tile.merge_begin, tile.merge_count)) {
      for (int64_t i = 0; i < merge.rows; ++i) {
        const int64_t position = tile.row0 + (merge.row_begin + i * merge.row_step) * level.stride + shift;
        const int64_t slot = merge.slot + i * merge.slot_step + merge.slot_shift * repeat;
        require(slot >= 0 && slot < static_cast<int64_t>(slot_of.size()), "class {}: row {} merges slot {} of {}", c,
                position, slot, slot_of.size());
        require(slot_of[slot] != kMerged, "class {}: row {} merges slot {}, which was merged before", c, position,
                slot);
        require(slot_of[slot] == position, "class {}: row {} merges slot {}, which holds {}", c, position, slot,
                slot_of[slot] == kEmpty ? "nothing" : fmt::format("row {}", slot_of[slot]));
        slot_of[slot] = kMerged;
      }
    }
  }

  // What the definition says of one (batch row, KV head).
  struct Sight {
    std::vector<std::vector<int64_t>> stay;  // [group][position]: where the segment that samples it begins, or -1
    std::vector<int64_t> phantoms;           // [position]
    std::vector<bool> blocks;  // [query][key]: a block pattern shows the pair; empty without block patterns
  };

  Sight sight(int64_t b, int64_t j) const {
    Sight s;
    s.phantoms.assign(e_.len_k, 0);
    const bool zero_keys = pattern_.options().padding == Padding::kZeroKeys && !pattern_.causal();
    std::vector<int64_t> cuts = e_.cu_seqlens;
    if (cuts.empty()) cuts = {0, e_.lengths.empty() ? e_.len_k : e_.lengths[b]};
    for (int64_t g = 0; g < static_cast<int64_t>(pattern_.groups().size()); ++g) {
      if (!pattern_.runs(g, j, e_.kv_heads)) continue;
      std::vector<int64_t> stay(e_.len_k, -1);
      const auto [w, r] = pattern_.groups()[g];
      const int64_t offset = pattern_.offset(g, j, e_.kv_heads);
      for (size_t d = 0; d + 1 < cuts.size(); ++d) {
        const int64_t n = cuts[d + 1] - cuts[d];
        std::vector<int64_t> sampled;  // of the segment at hand
        for (int64_t p = 0; p < n; ++p) {
          if (p % w == 0) sampled.clear();
          if ((p % w) % r == offset) {
            stay[cuts[d] + p] = cuts[d] + p - p % w;
            sampled.push_back(cuts[d] + p);
          }
          if (!zero_keys || (p % w != w - 1 && p != n - 1)) continue;
          const int64_t z = core::ceil_divide(std::min(w, n), r) - static_cast<int64_t>(sampled.size());
          for (const int64_t q : sampled) s.phantoms[q] += z;
        }
      }
      s.stay.push_back(std::move(stay));
    }
    if (!pattern_.blocks().empty()) s.blocks = shown_by_blocks(b, j, cuts);
    return s;
  }

  std::vector<bool> shown_by_blocks(int64_t b, int64_t j, const std::vector<int64_t>& cuts) const {
    std::vector<bool> shown(e_.len_k * e_.len_k);
    int64_t longest = e_.lengths.empty() ? 0 : *std::max_element(e_.lengths.begin(), e_.lengths.end());
    for (size_t d = 1; d < cuts.size(); ++d) longest = std::max(longest, cuts[d] - cuts[d - 1]);
    for (const BlockPattern& block : pattern_.blocks()) {
      const int64_t size = block.block_size();
      for (size_t d = 1; d < cuts.size(); ++d) {
        const int64_t nb = core::ceil_divide(cuts[d] - cuts[d - 1], size);
        const pattern::Place place{.blocks = nb,
                                   .causal = pattern_.causal(),
                                   .kv_head = j,
                                   .batch_row = b,
                                   .strict = e_.query_start == 0 && cuts[d] - cuts[d - 1] == longest};
        const pattern::BlockRows rows = pattern::active_rows(block, place, 0, nb);
        for (int64_t q = cuts[d - 1]; q < cuts[d]; ++q) {
          const int64_t i = (q - cuts[d - 1]) / size;
          for (int64_t n = rows.row_begin[i]; n < rows.row_begin[i + 1]; ++n) {
            const int64_t end = std::min(cuts[d], cuts[d - 1] + rows.intervals[n].end * size);
            for (int64_t k = cuts[d - 1] + rows.intervals[n].begin * size; k < end; ++k) shown[q * e_.len_k + k] = true;
          }
        }
      }
    }
    return shown;
  }

  void check_pairs(int64_t b, int64_t j) const {
    const int64_t c = plan_.class_of[b * e_.kv_heads + j];
    require(c >= 0 && c < static_cast<int64_t>(plan_.classes.size()), "class_of names class {} of {}", c,
            plan_.classes.size());
    const Sight s = sight(b, j);
    const std::vector<Executed>& executed = executed_[c];
    std::vector<int64_t> weights(e_.len_k);  // by column position
    size_t next = 0;
    for (int64_t row = bounds_.row_begin; row < bounds_.row_end; ++row) {
      std::fill(weights.begin(), weights.end(), 0);
      int64_t phantoms = 0;
      for (; next < executed.size() && executed[next].position == row; ++next) {
        add_row(executed[next], weights, phantoms);
      }
      const int64_t z = forward_ ? s.phantoms[row] : 0;
      require(phantoms == z, "batch row {}, KV head {}: query {} has {} phantoms, must have {}", b, j, row, phantoms,
              z);
      for (int64_t column = bounds_.column_begin; column < bounds_.column_end; ++column) {
        const int64_t q = forward_ ? row : column;
        const int64_t k = forward_ ? column : row;
        int64_t m = 0;
        for (const std::vector<int64_t>& stay : s.stay) m += stay[q] >= 0 && stay[q] == stay[k];
        if (!s.blocks.empty()) m += s.blocks[q * e_.len_k + k];
        if (pattern_.causal() && k > q) m = 0;
        require(weights[column] == m, "batch row {}, KV head {}: query {} and key {} have weight {}, must have {}", b,
                j, q, k, weights[column], m);
      }
    }
  }

  void add_row(const Executed& row, std::vector<int64_t>& weights, int64_t& phantoms) const {
    const Tile& tile = plan_.tiles[row.tile];
    for (const Phantoms& some : plan_.phantoms.subspan(tile.phantom_begin, tile.phantom_count)) {
      if (row.index >= some.row_begin && row.index < some.row_end) phantoms += some.count;
    }
    for (const Run& run : plan_.runs.subspan(tile.run_begin, tile.run_count)) {
      if (row.index < run.row_begin || row.index >= run.row_end) continue;
      for (int64_t i = 0; i < run.columns; ++i) {
        if (forward_ ? i >= row.index + run.diagonal : i < row.index + run.diagonal) continue;
        for (int64_t n = 0; n < run.classes; ++n) {
          weights[run.column0 + n * run.class_step + i * row.stride + row.shift] += run.weight;
        }
      }
    }
  }

  static constexpr int64_t kEmpty = -1;
  static constexpr int64_t kMerged = -2;

  const PlanView& plan_;
  const Pattern& pattern_;
  const Extent& e_;
  const bool forward_;
  Bounds bounds_{};
  std::vector<std::vector<Executed>> executed_;  // by class
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
