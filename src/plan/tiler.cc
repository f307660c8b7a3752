// Rows into tiles. The segments that a tile's rows sample are gathered as pieces; their ends cut the columns into
// intervals, whose runs tiler_runs.cc makes; those of rectangles are made by tiler_rectangles.cc.
#include "plan/tiler.h"

#include <algorithm>

#include "core/checked.h"

namespace longstride::plan {

using core::ceil_divide;
using core::floor_divide;
using core::floor_modulo;

void Tiler::enter(const LevelShape& level) {
  level_ = &level;
  stride_ = level.stride;
  cutting_.clear();
  for (const Sampling& s : level.samplings) {
    if (s.segment >= level.cut_segment) cutting_.push_back(s);
  }
}

size_t Tiler::document_at(int64_t position) const {
  if (documents_.size() == 2) return 0;
  // Lines are walked in order: most often it is the document of the last question, or the one after it.
  const size_t count = documents_.size() - 1;
  for (size_t d = last_document_; d < std::min(last_document_ + 2, count); ++d) {
    if (documents_[d] <= position && position < documents_[d + 1]) return last_document_ = d;
  }
  return last_document_ = std::upper_bound(documents_.begin(), documents_.end(), position) - documents_.begin() - 1;
}

int64_t Tiler::next_cut(int64_t position) const {
  const int64_t cut = next_segment_cut(position);
  if (level_->cuts.empty()) return cut;
  const auto next = std::upper_bound(level_->cuts.begin(), level_->cuts.end(), position);
  return next == level_->cuts.end() ? cut : std::min(cut, *next);
}

int64_t Tiler::next_segment_cut(int64_t position) const {
  const int64_t reach =
      std::min(scope_.row_end - position, core::saturating_multiply(scope_.geometry.tile_rows, stride_)) + position;
  if (position >= documents_.back()) return reach;
  for (size_t d = document_at(position);; ++d) {
    const int64_t begin = documents_[d], end = documents_[d + 1];
    int64_t cut = end;
    for (const Sampling& s : cutting_) {
      if (s.segment < end - begin) {
        cut = std::min(cut, begin + ((position - begin) / s.segment + 1) * s.segment);
      }
    }
    if (cut < end) return cut;
    if (end >= reach) return reach;
    if (d + 2 == documents_.size()) return end;
    if (std::min(end - begin, documents_[d + 2] - end) >= level_->cut_segment) return end;
    position = end;
  }
}

int64_t Tiler::previous_cut(int64_t position) const {
  if (position >= documents_.back()) return std::max(scope_.row_begin, documents_.back());
  const int64_t reach = position - core::saturating_multiply(scope_.geometry.tile_rows, stride_);
  for (size_t d = document_at(position);; --d) {
    const int64_t begin = documents_[d];
    int64_t cut = begin;
    for (const Sampling& s : cutting_) cut = std::max(cut, begin + (position - begin) / s.segment * s.segment);
    const bool document_cuts =
        d == 0 || std::min(documents_[d + 1] - begin, begin - documents_[d - 1]) >= level_->cut_segment;
    if (cut > begin || document_cuts || cut <= reach) return std::max(scope_.row_begin, cut);
    position = begin - 1;
  }
}

void Tiler::gather(int64_t row0, int64_t rows) {
  row0_ = row0;
  rows_ = rows;
  pieces_.clear();
  if (row0 >= documents_.back()) return;
  for (const Sampling& s : level_->samplings) gather_sampling(s);
  if (level_->bands) gather_bands();
}

void Tiler::gather_bands() {
  const Bands& all = *level_->bands;
  const int64_t end = row0_ + rows_;  // their level has stride 1
  auto band = std::upper_bound(all.bands.begin(), all.bands.end(), row0_,
                               [](int64_t row, const Band& b) { return row < b.row_end; });
  for (; band != all.bands.end() && band->row_begin < end; ++band) {
    Piece piece{.row_begin = std::max<int64_t>(0, band->row_begin - row0_),
                .row_end = std::min(rows_, band->row_end - row0_)};
    for (int64_t n = band->interval_begin; n < band->interval_end; ++n) {
      piece.low = std::max(all.intervals[n].begin, scope_.column_begin);
      piece.high = std::min(all.intervals[n].end, scope_.column_end);
      if (piece.low < piece.high) pieces_.push_back(piece);
    }
  }
}

void Tiler::gather_sampling(const Sampling& s) {
  const bool once = samples_once(s);
  if (once && s.offset >= s.segment) return;
  const int64_t end = std::min(documents_.back(), row0_ + (rows_ - 1) * stride_ + 1);
  const auto row_at_or_after = [&](int64_t p) { return p <= row0_ ? 0 : ceil_divide(p - row0_, stride_); };
  size_t d = document_at(row0_);
  for (int64_t position = row0_; position < end;) {
    while (documents_[d + 1] <= position) ++d;
    const int64_t begin = documents_[d];
    const int64_t low = position - begin < s.segment ? begin : begin + (position - begin) / s.segment * s.segment;
    const int64_t high = std::min(low + s.segment, documents_[d + 1]);
    const int64_t next_row = std::min(rows_, row_at_or_after(high));
    Piece piece{.rate = s.rate, .phase = low + s.offset};
    if (once) {
      // The one sample stands for itself; its line is any.
      const int64_t sample = low + s.offset;
      if (sample >= row0_ && sample < std::min(high, end) && (sample - row0_) % stride_ == 0) {
        piece.row_begin = (sample - row0_) / stride_;
        piece.row_end = piece.row_begin + 1;
        piece.low = sample;
        piece.high = sample + 1;
        piece.rate = 1;
      }
    } else if (low + s.offset < high && (row0_ - piece.phase) % s.rate == 0) {
      piece.row_begin = row_at_or_after(low);
      piece.row_end = next_row;
      piece.low = low;
      piece.high = high;
    }
    piece.low = std::max(piece.low, scope_.column_begin);
    piece.high = std::min(piece.high, scope_.column_end);
    if (piece.row_begin < piece.row_end && piece.low < piece.high) {
      if (scope_.zero_keys && !scope_.causal && !scope_.transposed) {
        const int64_t whole = std::min(s.segment, documents_[d + 1] - begin);
        piece.phantoms = ceil_divide(whole, s.rate) - ceil_divide(high - low - s.offset, s.rate);
      }
      pieces_.push_back(piece);
    }
    position = row0_ + next_row * stride_;
    if (next_row >= rows_) break;
  }
}

std::pair<int64_t, int64_t> Tiler::first_touched() const {
  int64_t first = rows_;
  for (const Piece& p : pieces_) first = std::min(first, p.row_begin);
  int64_t end = first;
  for (bool grown = true; grown;) {
    grown = false;
    for (const Piece& p : pieces_) {
      if (p.row_begin <= end && p.row_end > end) {
        end = p.row_end;
        grown = true;
      }
    }
  }
  return {first, end};
}

void Tiler::emit(int64_t rows, std::vector<Run>& runs, std::vector<Phantoms>* phantoms) {
  if (level_->rectangles) return emit_rectangles(rows, runs);
  if (pieces_.empty()) return;
  const int64_t last = row0_ + (rows - 1) * stride_;
  bounds_.clear();
  by_low_.clear();
  for (Piece& p : pieces_) {
    p.row_end = std::min(p.row_end, rows);
    // Clipped alike for all groups, so that their intervals end together.
    if (scope_.causal && !scope_.transposed) p.high = std::min(p.high, last + 1);
    if (scope_.causal && scope_.transposed) p.low = std::max(p.low, row0_);
    if (p.row_begin >= p.row_end || p.low >= p.high) continue;
    bounds_.push_back(p.low);
    bounds_.push_back(p.high);
    by_low_.push_back(&p);
  }
  // Groups beside the bands would be cut wherever the bands are.
  const int64_t quantum = scope_.geometry.column_quantum;
  const bool stairs = level_->bands && level_->samplings.empty() && quantum > 1;
  if (stairs) add_block_ends(quantum);
  std::sort(bounds_.begin(), bounds_.end());
  bounds_.erase(std::unique(bounds_.begin(), bounds_.end()), bounds_.end());
  std::sort(by_low_.begin(), by_low_.end(), [](const Piece* a, const Piece* b) { return a->low < b->low; });
  // A tile over many short documents has thousands of pieces, of which an interval meets one a group at most.
  covering_.clear();
  open_.clear();
  size_t next = 0;
  for (size_t i = 1, end = 1; i < bounds_.size(); i = end) {
    const int64_t low = bounds_[i - 1];
    std::erase_if(covering_, [low](const Piece* p) { return p->high <= low; });
    for (; next < by_low_.size() && by_low_[next]->low == low; ++next) covering_.push_back(by_low_[next]);
    const size_t first = runs.size();
    end = i + 1;
    if (stairs && emit_stairs(i, end, next, runs)) {
      join_runs(first, runs);
      continue;
    }
    if (!covering_.empty()) emit_interval(low, bounds_[i], runs);
    if (level_->bands) join_runs(first, runs);
  }
  if (phantoms != nullptr) emit_phantoms(rows, *phantoms);
}

// Runs from `first` on belong to one interval: those that go on with a run of the interval before are joined to it.
// Bands are cut at one another's ends, and many short runs would be dearer than one.
void Tiler::join_runs(size_t first, std::vector<Run>& runs) {
  const int64_t everything = scope_.transposed ? -Run::kEverything : Run::kEverything;
  size_t kept = first;
  const size_t earlier = open_.size();
  for (size_t n = first; n < runs.size(); ++n) {
    const Run run = runs[n];
    const auto continues = [&](size_t earlier_run) {
      const Run& before = runs[earlier_run];
      return before.row_begin == run.row_begin && before.row_end == run.row_end && before.weight == run.weight &&
             before.column0 + before.columns == run.column0;
    };
    const auto open = std::find_if(open_.begin(), open_.begin() + earlier, continues);
    if (open != open_.begin() + earlier) {
      Run& before = runs[*open];
      if (scope_.transposed ? before.diagonal == everything : run.diagonal != everything) {
        before.diagonal = run.diagonal == everything ? everything : run.diagonal + before.columns;
      }
      before.columns += run.columns;
      open_.push_back(*open);
    } else {
      runs[kept] = run;
      open_.push_back(kept++);
    }
  }
  runs.resize(kept);
  open_.erase(open_.begin(), open_.begin() + earlier);
}

void Tiler::emit_phantoms(int64_t rows, std::vector<Phantoms>& phantoms) {
  row_edges_.clear();
  for (const Piece& p : pieces_) {
    if (p.phantoms == 0 || p.row_begin >= p.row_end) continue;
    row_edges_.push_back(p.row_begin);
    row_edges_.push_back(std::min(p.row_end, rows));
  }
  std::sort(row_edges_.begin(), row_edges_.end());
  row_edges_.erase(std::unique(row_edges_.begin(), row_edges_.end()), row_edges_.end());
  for (size_t i = 1; i < row_edges_.size(); ++i) {
    int64_t count = 0;
    for (const Piece& p : pieces_) {
      if (p.row_begin <= row_edges_[i - 1] && row_edges_[i] <= p.row_end) count += p.phantoms;
    }
    if (count > 0) {
      phantoms.push_back({static_cast<int32_t>(row_edges_[i - 1]), static_cast<int32_t>(row_edges_[i]), count});
    }
  }
}

}  // namespace longstride::plan
