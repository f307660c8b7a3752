// Stairs of small blocks. An engine multiplies columns in multiples of Geometry::column_quantum; where bands end within
// such a block of columns, runs of the strips between the ends each cost the whole block, for all the rows below. There
// runs may follow the rows instead: one for the rows that see the whole block, and short ones for the others.
#include <algorithm>

#include "plan/run_cost.h"
#include "plan/tiler.h"

namespace longstride::plan {

// Cuts columns at the ends of the blocks in which bands end; join_runs() mends what need not be cut.
void Tiler::add_block_ends(int64_t quantum) {
  const size_t ends = bounds_.size();
  for (size_t n = 0; n < ends; ++n) {
    const int64_t at = bounds_[n];
    if (at % quantum == 0) continue;
    bounds_.push_back(at / quantum * quantum);
    bounds_.push_back((at / quantum + 1) * quantum);
  }
}

// Fills steps_ with what the pieces see of columns [low, high), by rows. `next`: of by_low_, the first that is not in
// covering_ or done.
void Tiler::gather_steps(int64_t low, int64_t high, size_t next) {
  steps_.clear();
  for (const Piece* p : covering_) steps_.push_back({low, std::min(high, p->high), p});
  for (; next < by_low_.size() && by_low_[next]->low < high; ++next) {
    steps_.push_back({by_low_[next]->low, std::min(high, by_low_[next]->high), by_low_[next]});
  }
  std::sort(steps_.begin(), steps_.end(),
            [](const Step& a, const Step& b) { return a.piece->row_begin < b.piece->row_begin; });
}

// In units of a block's columns: the rows of the runs and what beginning them costs.
double Tiler::ranges_cost(const std::vector<RowRange>& ranges, const std::vector<RowRange>& begun) const {
  const Geometry& g = scope_.geometry;
  const double begins = g.run_columns * g.tile_rows / g.column_quantum;
  double cost = 0;
  for (const RowRange& r : ranges) {
    if (std::find(begun.begin(), begun.end(), r) != begun.end()) continue;
    const int64_t end = core::ceil_divide(r.second, g.run_row_quantum) * g.run_row_quantum;
    cost += begins + static_cast<double>(std::min(rows_, end) - r.first / g.run_row_quantum * g.run_row_quantum);
  }
  return cost;
}

// Appends rows that come in order, to the range before where they go on with it.
void Tiler::add_rows(const Piece& piece, std::vector<RowRange>& ranges) {
  if (!ranges.empty() && ranges.back().second == piece.row_begin) {
    ranges.back().second = piece.row_end;
  } else {
    ranges.push_back({piece.row_begin, piece.row_end});
  }
}

// Whether runs along rows are cheaper than runs of the strips [first, last); steps_ are by rows before and by columns
// after.
bool Tiler::follow_rows(size_t first, size_t last) {
  double strips = 0, rows = 0;
  std::vector<RowRange>&ranges = ranges_, &begun = begun_;
  begun.clear();
  for (size_t n = first; n < last; ++n) {
    ranges.clear();
    for (const Step& s : steps_) {
      if (s.low <= bounds_[n - 1] && bounds_[n] <= s.high) add_rows(*s.piece, ranges);
    }
    strips += ranges_cost(ranges, begun);
    ranges.swap(begun);
  }
  const auto before = [](const Step& a, const Step& b) { return a.low != b.low ? a.low < b.low : a.high < b.high; };
  std::stable_sort(steps_.begin(), steps_.end(), before);
  for (size_t n = 0; n < steps_.size();) {
    ranges.clear();
    const Step& one = steps_[n];
    for (; n < steps_.size() && steps_[n].low == one.low && steps_[n].high == one.high; ++n) {
      add_rows(*steps_[n].piece, ranges);
    }
    rows += ranges_cost(ranges, {});
  }
  return rows < strips;
}

// Of the block of columns that strip `first` begins (strip n lies between bounds n - 1 and n), whether its runs follow
// the rows. If so they are appended, `end` becomes the strip after the block, and covering_ and `next` go along.
bool Tiler::emit_stairs(size_t first, size_t& end, size_t& next, std::vector<Run>& runs) {
  const int64_t quantum = scope_.geometry.column_quantum;
  const int64_t low = bounds_[first - 1], block_end = (low / quantum + 1) * quantum;
  size_t last = first + 1;
  while (last < bounds_.size() && bounds_[last] <= block_end) ++last;
  if (last == first + 1) return false;
  const int64_t high = bounds_[last - 1];
  gather_steps(low, high, next);
  if (!follow_rows(first, last)) return false;
  for (size_t n = 0; n < steps_.size();) {
    const Step one = steps_[n];
    covering_.clear();
    for (; n < steps_.size() && steps_[n].low == one.low && steps_[n].high == one.high; ++n) {
      covering_.push_back(steps_[n].piece);
    }
    emit_interval(one.low, one.high, runs);
  }
  covering_.clear();
  for (const Step& s : steps_) covering_.push_back(s.piece);
  while (next < by_low_.size() && by_low_[next]->low < high) ++next;
  end = last;
  return true;
}

}  // namespace longstride::plan
