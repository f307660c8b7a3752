// Rows into rectangles: the columns of a row are united as spans whose ends stand or move with the row, for as many
// rows as their order stays; spans that go on with those of the rows before make one rectangle.
#include "plan/rectangles.h"

#include <algorithm>

#include "core/checked.h"
#include "plan/grids.h"
#include "plan/level.h"

namespace longstride::plan {
namespace {

// The columns [begin, end) of the row at hand; an end that moves is one further in each next row.
struct Span {
  int64_t begin = 0;
  int64_t end = 0;
  bool begin_moves = false;
  bool end_moves = false;
};

// What a sliding window shows to a row; causal pairs are hidden elsewhere, so that its end need not move then.
void add_window(const Grid& grid, const SlidingWindow& rule, bool causal, int64_t row, std::vector<Span>& spans) {
  const int64_t begin = grid.document_begin, end = grid.document_end;
  if (rule.sink_tokens > 0) spans.push_back({begin, std::min(end, begin + rule.sink_tokens)});
  const bool begin_moves = rule.left && row - *rule.left >= begin;
  const bool end_moves = !causal && rule.right && row + *rule.right + 1 <= end;
  spans.push_back(
      {begin_moves ? row - *rule.left : begin, end_moves ? row + *rule.right + 1 : end, begin_moves, end_moves});
}

// The next row at which a window's ends begin to move, or stand still.
int64_t next_turn(const Grid& grid, const SlidingWindow& rule, int64_t row) {
  int64_t next = grid.row_end;
  const int64_t begins = grid.document_begin + rule.left.value_or(0);
  const int64_t stands = grid.document_end - rule.right.value_or(0);
  if (begins > row) next = std::min(next, begins);
  if (stands > row) next = std::min(next, stands);
  return next;
}

// Unites the spans of a row. Returns up to which row their union is what it is here: an end that moves has not come to
// or passed one that stands.
int64_t unite(int64_t row, int64_t row_end, std::vector<Span>& spans, std::vector<int64_t>& standing) {
  standing.clear();
  for (const Span& s : spans) {
    if (!s.begin_moves) standing.push_back(s.begin);
    if (!s.end_moves) standing.push_back(s.end);
  }
  std::sort(standing.begin(), standing.end());
  int64_t next = row_end;
  const auto meets = [&](int64_t position) {
    const auto ahead = std::lower_bound(standing.begin(), standing.end(), position);
    if (ahead != standing.end()) next = std::min(next, row + std::max<int64_t>(1, *ahead - position));
  };
  for (const Span& s : spans) {
    if (s.begin_moves) meets(s.begin);
    if (s.end_moves) meets(s.end);
  }
  // Of equal begins the one that stands is the first from the next row on, of equal ends the one that moves the last.
  std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.begin_moves < b.begin_moves;
  });
  size_t kept = 0;
  for (const Span& s : spans) {
    if (s.begin >= s.end) continue;
    if (kept > 0 && s.begin <= spans[kept - 1].end) {
      Span& last = spans[kept - 1];
      if (s.end > last.end || (s.end == last.end && s.end_moves)) {
        last.end = s.end;
        last.end_moves = s.end_moves;
      }
    } else {
      spans[kept++] = s;
    }
  }
  spans.resize(kept);
  return next;
}

// Puts spans that go on with those of the rows before together.
class Joiner {
 public:
  // The spans of rows [row, next), ascending. Rows come in order.
  void add(int64_t row, int64_t next, const std::vector<Span>& spans) {
    const bool one_row = next - row == 1;  // of which no one can tell whether its ends move
    open_.swap(before_);
    open_.clear();
    size_t from = 0;
    for (const Span& s : spans) {
      const Edge begin{s.begin, !s.begin_moves || one_row, s.begin_moves || one_row};
      const Edge end{s.end, !s.end_moves || one_row, s.end_moves || one_row};
      while (from < before_.size() && last_place(growing_[before_[from]], row) < s.begin) ++from;
      size_t found = before_.size();
      for (size_t n = from; n < before_.size() && first_place(growing_[before_[n]], row) <= s.begin; ++n) {
        if (goes_on(growing_[before_[n]], row, begin, end)) {
          found = n;
          break;
        }
      }
      if (found == before_.size()) {
        open_.push_back(growing_.size());
        growing_.push_back({row, next, begin, end});
        continue;
      }
      Growing& one = growing_[before_[found]];
      one.begin = grown(one, row, one.begin, begin);
      one.end = grown(one, row, one.end, end);
      one.row_end = next;
      open_.push_back(before_[found]);
    }
  }

  std::vector<Rectangle> rectangles() const {
    std::vector<Rectangle> all;
    for (const Growing& one : growing_) {
      Rectangle r{one.row_begin, one.row_end, one.begin.position, one.end.position};
      if (!one.begin.may_stand) r.least = one.begin.position - one.row_begin;
      if (!one.end.may_stand) {
        r.most = one.end.position - 1 - one.row_begin;
        r.column_end += one.row_end - 1 - one.row_begin;
      }
      all.push_back(r);
    }
    return all;
  }

 private:
  // One end of a rectangle in its first row, and what it may do in the others.
  struct Edge {
    int64_t position = 0;
    bool may_stand = true;
    bool may_move = true;
  };
  struct Growing {
    int64_t row_begin = 0;
    int64_t row_end = 0;
    Edge begin;
    Edge end;
  };

  // What an end may do if it goes on as `next` in `row`.
  static Edge grown(const Growing& one, int64_t row, const Edge& edge, const Edge& next) {
    return {edge.position, edge.may_stand && next.may_stand && next.position == edge.position,
            edge.may_move && next.may_move && next.position - row == edge.position - one.row_begin};
  }
  static bool may(const Edge& edge) { return edge.may_stand || edge.may_move; }
  static bool goes_on(const Growing& one, int64_t row, const Edge& begin, const Edge& end) {
    return one.row_end == row && may(grown(one, row, one.begin, begin)) && may(grown(one, row, one.end, end));
  }
  // Where a rectangle may begin in `row`.
  static int64_t first_place(const Growing& one, int64_t row) {
    return one.begin.may_stand ? one.begin.position : one.begin.position + row - one.row_begin;
  }
  static int64_t last_place(const Growing& one, int64_t row) {
    return one.begin.may_move ? one.begin.position + row - one.row_begin : one.begin.position;
  }

  std::vector<Growing> growing_;
  std::vector<size_t> before_, open_;  // of growing_: those of the rows before, and of these rows; by column
};

// Makes of those of one document, or of all of them, rectangles of the plan.
void take(const std::vector<Rectangle>& from, const Scope& scope, int64_t origin, int64_t limit,
          std::vector<Rectangle>& to) {
  for (Rectangle r : from) {
    if (scope.transposed) r = {r.column_begin, r.column_end, r.row_begin, r.row_end, -r.most, -r.least};
    r.origin = origin;
    r.limit = limit;
    to.push_back(r);
  }
}

void add_stretches(const Scope& scope, Rectangles& to) {
  to.row_begin = scope.row_begin;
  to.stretch = scope.geometry.tile_rows;
  const int64_t stretches = (scope.row_end - scope.row_begin) / to.stretch + 1;
  to.stretch_begin.assign(stretches + 1, 0);
  const auto for_each_stretch = [&](const Rectangle& r, const auto& visit) {
    const int64_t last = (std::min(scope.row_end, to.end_row(r)) - 1 - to.row_begin) / to.stretch;
    for (int64_t n = (to.first_row(r) - to.row_begin) / to.stretch; n <= last; ++n) visit(n);
  };
  for (const Rectangle& r : to.all) for_each_stretch(r, [&](int64_t n) { ++to.stretch_begin[n + 1]; });
  for (int64_t n = 0; n < stretches; ++n) to.stretch_begin[n + 1] += to.stretch_begin[n];
  to.members.resize(to.stretch_begin.back());
  std::vector<int64_t> next(to.stretch_begin.begin(), to.stretch_begin.end() - 1);
  for (size_t i = 0; i < to.all.size(); ++i) {
    for_each_stretch(to.all[i], [&](int64_t n) { to.members[next[n]++] = static_cast<int32_t>(i); });
  }
}

}  // namespace

int64_t sliding_unit(const Pattern& pattern, const Geometry& geometry, int64_t rows) {
  // Of larger blocks bands are cheaper: the rows of a tile's diagonal are so many blocks, all computed. Where stairs
  // follow the rows (tiler_stairs.cc) bands of blocks of 5 take 0.9 times as long, causal, and of blocks of 4 as long.
  const int64_t most_unit = geometry.column_quantum > 1 ? 4 : 7;
  const std::vector<BlockPattern>& blocks = pattern.blocks();
  const auto any = [&](const auto& holds) { return std::any_of(blocks.begin(), blocks.end(), holds); };
  if (any([](const BlockPattern& b) { return b.window() != nullptr; })) return 1;
  if (blocks.empty()) return 0;
  const auto by_token = []<class Rule>(const Rule&) {
    return !std::is_same_v<Rule, RandomBlocks> && !std::is_same_v<Rule, Hierarchical> &&
           !std::is_same_v<Rule, BlockList>;
  };
  if (any([&](const BlockPattern& b) { return b.block_size() == 1 && std::visit(by_token, b.rule()); })) return 1;
  // What stands still in single blocks is dearer at a stride.
  const auto by_block = []<class Rule>(const Rule&) {
    return std::is_same_v<Rule, LocalWindow> || std::is_same_v<Rule, DilatedSparse> ||
           std::is_same_v<Rule, GlobalLocal>;
  };
  const int64_t unit = blocks.front().block_size();
  if (unit == 1 || unit > most_unit || rows < unit * geometry.tile_rows) return 0;
  const bool others =
      any([&](const BlockPattern& b) { return b.block_size() != unit || !std::visit(by_block, b.rule()); });
  return others ? 0 : unit;
}

Rectangles make_rectangles(const Pattern& pattern, const ClassSpec& spec, const Scope& scope) {
  const int64_t query_begin = scope.transposed ? scope.column_begin : scope.row_begin;
  const int64_t query_end = scope.transposed ? scope.column_end : scope.row_end;
  const Documents& documents = *spec.documents;
  Rectangles result{.unit = scope.sliding_unit};
  Joiner joiner;
  std::vector<pattern::Interval> columns;
  std::vector<Span> spans;
  std::vector<int64_t> standing;
  for (size_t d = 1; d < documents.size(); ++d) {
    const int64_t begin = std::max(query_begin, documents[d - 1]), end = std::min(query_end, documents[d]);
    if (begin >= end) continue;
    const std::vector<Grid> grids = make_grids(pattern, spec, scope, d, begin, end);
    // Tokens are counted from position 0, larger blocks from where their document begins.
    const int64_t unit = result.unit, origin = unit > 1 ? documents[d - 1] : 0;
    const auto block = [&](int64_t position) { return (position - origin) / unit; };
    const auto block_end = [&](int64_t position) { return core::ceil_divide(position - origin, unit); };
    for (int64_t row = block(begin); row < block_end(end);) {
      const int64_t position = std::max(begin, origin + row * unit);
      int64_t next = block_end(end);
      spans.clear();
      for (const Grid& grid : grids) {
        if (const SlidingWindow* window = grid.pattern->window()) {
          add_window(grid, *window, scope.causal, row, spans);
          next = std::min(next, next_turn(grid, *window, row));
        } else {
          columns.clear();
          grid.add_columns(position, columns);
          for (const pattern::Interval& x : columns) spans.push_back({block(x.begin), block_end(x.end)});
          next = std::min(next, block_end(grid.next_edge(position)));
        }
      }
      next = std::min(next, unite(row, next, spans, standing));
      joiner.add(row, next, spans);
      row = next;
    }
    if (unit == 1) continue;
    take(joiner.rectangles(), scope, origin, documents[d], result.all);
    joiner = {};
  }
  take(joiner.rectangles(), scope, 0, documents.back(), result.all);
  add_stretches(scope, result);
  return result;
}

Rectangles make_rectangles(const std::vector<Rectangle>& all, const Scope& scope) {
  Rectangles result;
  take(all, scope, 0, Rectangle::kFar, result.all);
  add_stretches(scope, result);
  return result;
}

}  // namespace longstride::plan
