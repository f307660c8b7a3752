// Finds the pairs of a slice that lie outside its pieces, and rows for their queries and keys.
#include "parallel/gathered.h"

#include <algorithm>
#include <map>

#include "parallel/slice.h"
#include "pattern/block_rows.h"

namespace longstride::parallel {
namespace {

// Rows of a memory, from `first` on at a step.
struct Line {
  int64_t first = 0;
  int64_t step = 1;
  int64_t count = 0;
  auto operator<=>(const Line&) const = default;
};

// Gives rows of one memory places in another: neighbours are gathered once, whoever asks for them, and lines at a step
// each by itself, since a line must lie one by one.
class Seats {
 public:
  void ask(const Line& line) {
    if (line.step == 1) {
      intervals_.push_back({line.first, line.first + line.count});
    } else {
      lines_.emplace(line, 0);
    }
  }

  // Returns the first row that is free after these, which begin at `to`.
  int64_t place(int64_t to, std::vector<Gathering>& all) {
    pattern::normalise(intervals_);
    for (const pattern::Interval& x : intervals_) {
      begins_.push_back(to);
      all.push_back({x.begin, 1, x.end - x.begin, to});
      to += x.end - x.begin;
    }
    for (auto& [line, begin] : lines_) {
      begin = to;
      all.push_back({line.first, line.step, line.count, to});
      to += line.count;
    }
    return to;
  }

  int64_t at(const Line& line) const {
    if (line.step > 1) return lines_.at(line);
    const auto beyond =
        std::ranges::partition_point(intervals_, [&](const pattern::Interval& x) { return x.begin <= line.first; });
    const auto n = beyond - intervals_.begin() - 1;
    return begins_[n] + line.first - intervals_[n].begin;
  }

 private:
  std::vector<pattern::Interval> intervals_;
  std::vector<int64_t> begins_;  // of intervals_
  std::map<Line, int64_t> lines_;
};

Line line_of(int64_t first, int64_t step, int64_t count) { return {first, count == 1 ? 1 : step, count}; }
Line queries_of(const Shown& one) { return line_of(one.query_row, one.queries.step, one.queries.count); }
Line keys_of(const Shown& one) { return line_of(one.key_row, one.key_step, one.keys.count); }

class Gatherer {
 public:
  Gatherer(const std::vector<Piece>& pieces, const Slice& slice, int64_t received) : received_(received) {
    const auto piece_of = [&](int64_t row) {
      return std::ranges::partition_point(pieces, [row](const Piece& p) { return p.row <= row; });
    };
    for (const Shown& one : slice.local) {
      if (piece_of(one.query_row) != piece_of(one.key_row)) own_.push_back(&one);
    }
    for (const Shown& one : slice.received) others_.push_back(&one);
  }

  void gather(GatheredClass& to) {
    Seats queries, own, again;
    for (const Shown* one : own_) {
      queries.ask(queries_of(*one));
      own.ask(keys_of(*one));
    }
    for (const Shown* one : others_) {
      queries.ask(queries_of(*one));
      if (keys_of(*one).step > 1) again.ask(keys_of(*one));
    }
    to.query_rows = queries.place(0, to.queries);
    to.key_rows = again.place(own.place(received_, to.own), to.received);
    for (const Shown* one : own_) add(*one, queries.at(queries_of(*one)), own.at(keys_of(*one)), to.rectangles);
    for (const Shown* one : others_) {
      const Line keys = keys_of(*one);
      add(*one, queries.at(queries_of(*one)), keys.step > 1 ? again.at(keys) : keys.first, to.rectangles);
    }
  }

 private:
  static void add(const Shown& one, int64_t row, int64_t column, std::vector<plan::Rectangle>& to) {
    plan::Rectangle r{row, row + one.queries.count, column, column + one.keys.count};
    // Only blocks have these, whose queries and keys are neighbours before they are gathered too.
    const int64_t moved = (column - row) - (one.keys.first - one.queries.first);
    if (one.low > -Shown::kUnbounded) r.least = one.low + moved;
    if (one.high < Shown::kUnbounded) r.most = one.high + moved;
    if (!to.empty()) {
      plan::Rectangle& last = to.back();
      const bool unbounded = r.least == -plan::Rectangle::kFar && r.most == plan::Rectangle::kFar;
      if (unbounded && last.least == r.least && last.most == r.most && last.row_begin == r.row_begin &&
          last.row_end == r.row_end && last.column_end == r.column_begin) {
        last.column_end = r.column_end;
        return;
      }
    }
    to.push_back(r);
  }

  const int64_t received_;  // rows that are in the buffer of keys already
  std::vector<const Shown*> own_;
  std::vector<const Shown*> others_;
};

// `cut`: the slice of a class.
template <class Cut>
Gathered gather_slices(const ShardedCall& call, int64_t rank, const std::vector<Need>& needs, const Cut& cut) {
  const std::vector<Piece> pieces = joined_pieces(call.shards, rank);
  Gathered result;
  for (int64_t c = 0; c < call.class_count(); ++c) {
    const Slice of_place = cut(c);
    GatheredClass& to = result.classes.emplace_back();
    Gatherer(pieces, of_place, needs[c].count).gather(to);
    result.queries = std::max(result.queries, to.query_rows);
    result.keys = std::max(result.keys, to.key_rows);
  }
  return result;
}

}  // namespace

std::vector<Piece> joined_pieces(const Shards& shards, int64_t rank) {
  std::vector<Piece> joined;
  for (const Piece& piece : shards.positions(rank)) {
    if (!joined.empty() && joined.back().end == piece.begin) {
      joined.back().end = piece.end;
    } else {
      joined.push_back(piece);
    }
  }
  return joined;
}

Gathered gather(const ShardedCall& call, int64_t rank, const std::vector<Need>& needs) {
  return gather_slices(call, rank, needs, [&](int64_t c) { return slice(call, rank, c, needs[c]); });
}

Gathered gather_received(const ShardedCall& call, int64_t rank, const std::vector<Need>& needs) {
  return gather_slices(call, rank, needs, [&](int64_t c) { return received_slice(call, rank, c, needs[c]); });
}

}  // namespace longstride::parallel
