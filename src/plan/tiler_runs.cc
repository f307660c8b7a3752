// The runs of one interval of columns: the weights of the pieces that cover it are added residue by residue (as bits of
// a word), and residues that agree in weight, count and diagonal stand in one run.
#include <algorithm>
#include <array>
#include <bit>

#include "core/checked.h"
#include "plan/tiler.h"

namespace longstride::plan {
namespace {

using core::ceil_divide;
using core::floor_divide;
using core::floor_modulo;

constexpr int64_t kWordBits = 64;
static_assert(kMostFusedStride <= kWordBits);

// Bits 0, rate, 2 * rate, ... of a word.
constexpr std::array<uint64_t, kWordBits + 1> make_combs() {
  std::array<uint64_t, kWordBits + 1> combs{};
  for (int64_t rate = 1; rate <= kWordBits; ++rate) {
    for (int64_t bit = 0; bit < kWordBits; bit += rate) combs[rate] |= uint64_t{1} << bit;
  }
  return combs;
}
constexpr std::array<uint64_t, kWordBits + 1> kCombs = make_combs();

uint64_t low_bits(int64_t n) { return n <= 0 ? 0 : n >= kWordBits ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

// How many members first, first + step, ... of `set` follow each other without a gap.
int64_t chain(uint64_t set, int64_t first, int64_t step) {
  int64_t n = 0;
  for (int64_t bit = first; bit < kWordBits && (set >> bit & 1) != 0; bit += step) ++n;
  return n;
}

}  // namespace

// The residues handled together are bits: bit b is the columns origin + b + i * L. Those below count_edge have
// one column more than `columns`; under causal those up to diagonal_edge have `diagonal`, the others one less.
struct Tiler::Interval {
  int64_t origin = 0;
  int64_t columns = 0;
  int64_t count_edge = 0;
  int64_t diagonal = 0;
  int64_t diagonal_edge = kWordBits;
};

void Tiler::emit_interval(int64_t low, int64_t high, std::vector<Run>& runs) {
  row_edges_.clear();
  for (const Piece* p : covering_) {
    row_edges_.push_back(p->row_begin);
    row_edges_.push_back(p->row_end);
  }
  std::sort(row_edges_.begin(), row_edges_.end());
  row_edges_.erase(std::unique(row_edges_.begin(), row_edges_.end()), row_edges_.end());

  Interval interval{.origin = low, .columns = (high - low) / stride_, .count_edge = (high - low) % stride_};
  if (scope_.causal) {
    // forward: i < j + floor((row0 - column0) / L) + 1; transposed: i >= j + ceil((row0 - column0) / L).
    const int64_t ahead = row0_ - low + (scope_.transposed ? stride_ - 1 : 0);
    interval.diagonal = floor_divide(ahead, stride_) + (scope_.transposed ? 0 : 1);
    interval.diagonal_edge = floor_modulo(ahead, stride_) + 1;
  }
  if (stride_ <= kMostFusedStride) {
    const uint64_t all = low_bits(std::min(stride_, high - low));
    masks_.clear();
    for (const Piece* p : covering_) {
      masks_.emplace_back(p, p->rate == 1 ? all : all & (kCombs[p->rate] << floor_modulo(p->phase - low, p->rate)));
    }
    emit_residues(interval, masks_, runs);
    return;
  }
  // A wide level: every piece has one residue; each distinct one is taken by itself, as bit 0.
  std::vector<std::pair<int64_t, const Piece*>> by_residue;
  for (const Piece* p : covering_) {
    const int64_t residue = p->rate == 1 ? 0 : floor_modulo(p->phase - low, stride_);
    if (residue < high - low) by_residue.emplace_back(residue, p);
  }
  std::stable_sort(by_residue.begin(), by_residue.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = 0; i < by_residue.size();) {
    const int64_t residue = by_residue[i].first;
    masks_.clear();
    for (; i < by_residue.size() && by_residue[i].first == residue; ++i) masks_.emplace_back(by_residue[i].second, 1);
    Interval one = interval;
    one.origin += residue;
    one.count_edge -= residue;
    one.diagonal_edge -= residue;
    emit_residues(one, masks_, runs);
  }
}

// Adds the pieces' weights up, range of rows by range of rows, and joins ranges in which a residue has one weight.
void Tiler::emit_residues(const Interval& interval, const std::vector<std::pair<const Piece*, uint64_t>>& masks,
                          std::vector<Run>& runs) {
  const int64_t ranges = std::ssize(row_edges_) - 1;
  // No two pieces of one group, and no two bands, serve one row.
  const size_t heaviest_of_all = std::min(masks.size(), level_->samplings.size() + (level_->bands ? 1 : 0));
  const auto weights = static_cast<int64_t>(heaviest_of_all) + 1;
  // sets_[range * weights + v]: the residues of weight v.
  sets_.assign(ranges * weights, 0);
  for (int64_t range = 0; range < ranges; ++range) {
    uint64_t* sets = &sets_[range * weights];
    sets[0] = ~uint64_t{0};
    int64_t heaviest = 0;
    for (const auto& [piece, mask] : masks) {
      if (piece->row_begin > row_edges_[range] || piece->row_end < row_edges_[range + 1]) continue;
      for (int64_t v = heaviest; v >= 0; --v) {
        sets[v + 1] |= sets[v] & mask;
        sets[v] &= ~mask;
      }
      ++heaviest;
    }
  }
  for (int64_t range = 0; range < ranges; ++range) {
    for (int64_t v = 1; v < weights; ++v) {
      uint64_t open = sets_[range * weights + v] & ~(range > 0 ? sets_[(range - 1) * weights + v] : 0);
      for (int64_t end = range + 1; open != 0; ++end) {
        const uint64_t on = end < ranges ? open & sets_[end * weights + v] : 0;
        if (on != open) {
          emit_set(interval, open & ~on, row_edges_[range], row_edges_[end], static_cast<int32_t>(v), runs);
        }
        open = on;
      }
    }
  }
}

// Splits a set of residues where counts of columns or diagonals differ, then into arithmetic progressions.
void Tiler::emit_set(const Interval& interval, uint64_t set, int64_t row_begin, int64_t row_end, int32_t weight,
                     std::vector<Run>& runs) const {
  const std::array<int64_t, 4> edges = {0, std::min(interval.count_edge, interval.diagonal_edge),
                                        std::max(interval.count_edge, interval.diagonal_edge), kWordBits};
  Run pending;  // of the zones before, as long as they agree
  uint64_t pending_set = 0;
  const auto flush = [&] {
    while (pending_set != 0) {
      const int64_t first = std::countr_zero(pending_set);
      const uint64_t rest = pending_set & (pending_set - 1);
      int64_t step = 0, residues = 1;
      for (uint64_t others = rest; others != 0; others &= others - 1) {
        const int64_t candidate = std::countr_zero(others) - first;
        const int64_t n = chain(pending_set, first, candidate);
        if (n > residues) {
          residues = n;
          step = candidate;
        }
        if (residues * 2 > std::popcount(pending_set)) break;  // no other step reaches more
      }
      Run run = pending;
      run.column0 += first;
      run.residues = static_cast<int16_t>(residues);
      run.residue_step = static_cast<int32_t>(step);
      runs.push_back(run);
      for (int64_t c = 0; c < residues; ++c) pending_set &= ~(uint64_t{1} << (first + c * step));
    }
  };
  for (size_t zone = 0; zone < 3; ++zone) {
    const uint64_t part = set & low_bits(edges[zone + 1]) & ~low_bits(edges[zone]);
    if (part == 0) continue;
    const int64_t columns = interval.columns + (edges[zone] < interval.count_edge ? 1 : 0);
    Run run{.column0 = interval.origin,
            .columns = columns,
            .weight = weight,
            .row_begin = static_cast<int16_t>(row_begin),
            .row_end = static_cast<int16_t>(row_end)};
    if (scope_.transposed) {
      run.diagonal = -Run::kEverything;
      if (scope_.causal) {
        run.diagonal = interval.diagonal - (edges[zone] < interval.diagonal_edge ? 0 : 1);
        const int64_t hidden = std::max<int64_t>(0, row_begin + run.diagonal);
        run.column0 += hidden * stride_;
        run.columns -= hidden;
        run.diagonal -= hidden;
        if (row_end - 1 + run.diagonal <= 0) run.diagonal = -Run::kEverything;
      }
    } else if (scope_.causal) {
      run.diagonal = interval.diagonal - (edges[zone] < interval.diagonal_edge ? 0 : 1);
      run.columns = std::min(columns, row_end - 1 + run.diagonal);
      if (run.columns <= row_begin + run.diagonal) run.diagonal = Run::kEverything;
    }
    if (run.columns <= 0) continue;
    if (run.column0 != pending.column0 || run.columns != pending.columns || run.diagonal != pending.diagonal) {
      flush();
      pending = run;
    }
    pending_set |= part;
  }
  flush();
}

}  // namespace longstride::plan
