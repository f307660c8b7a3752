// Blocks into tokens: rows of blocks become bands, the patterns of a class are united, equal neighbours joined.
#include "plan/bands.h"

#include <algorithm>
#include <iterator>

#include "core/checked.h"
#include "plan/grids.h"
#include "plan/level.h"
#include "plan/run_cost.h"

namespace longstride::plan {
namespace {

using core::ceil_divide;
using pattern::Interval;

// Appends a band unless it continues the last one; `intervals` are normal.
void append(int64_t row_begin, int64_t row_end, const std::vector<Interval>& intervals, Bands& to) {
  if (row_begin >= row_end || intervals.empty()) return;
  if (!to.bands.empty()) {
    Band& last = to.bands.back();
    if (last.row_end == row_begin && std::equal(intervals.begin(), intervals.end(), &to.intervals[last.interval_begin],
                                                &to.intervals[0] + last.interval_end)) {
      last.row_end = row_end;
      return;
    }
  }
  const int64_t begin = std::ssize(to.intervals);
  to.intervals.insert(to.intervals.end(), intervals.begin(), intervals.end());
  to.bands.push_back({row_begin, row_end, begin, std::ssize(to.intervals)});
}

// Rows become columns. Rows of blocks are expanded over the elementary slabs between all column edges, so it costs as
// much as there are active (band, slab) pairs.
Bands transposed(const Bands& from) {
  std::vector<int64_t> edges;
  for (const Interval& x : from.intervals) {
    edges.push_back(x.begin);
    edges.push_back(x.end);
  }
  std::sort(edges.begin(), edges.end());
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  const auto slab_of = [&](int64_t position) {
    return std::lower_bound(edges.begin(), edges.end(), position) - edges.begin();
  };
  Bands to;
  if (edges.size() < 2) return to;
  const size_t slabs = edges.size() - 1;
  std::vector<std::pair<int64_t, int64_t>> ranges;  // of slabs, by interval
  std::vector<int64_t> begin(slabs + 1, 0);
  for (const Interval& x : from.intervals) {
    ranges.emplace_back(slab_of(x.begin), slab_of(x.end));
    for (int64_t s = ranges.back().first; s < ranges.back().second; ++s) ++begin[s + 1];
  }
  for (size_t s = 0; s < slabs; ++s) begin[s + 1] += begin[s];
  std::vector<int64_t> next(begin.begin(), begin.end() - 1);
  std::vector<int32_t> bands(begin.back());  // that are active in a slab, ascending
  for (size_t b = 0; b < from.bands.size(); ++b) {
    for (int64_t n = from.bands[b].interval_begin; n < from.bands[b].interval_end; ++n) {
      for (int64_t s = ranges[n].first; s < ranges[n].second; ++s) bands[next[s]++] = static_cast<int32_t>(b);
    }
  }
  std::vector<Interval> rows;
  for (size_t s = 0; s < slabs; ++s) {
    rows.clear();
    for (int64_t n = begin[s]; n < begin[s + 1]; ++n) {
      const Band& band = from.bands[bands[n]];
      if (!rows.empty() && rows.back().end == band.row_begin) {
        rows.back().end = band.row_end;
      } else {
        rows.push_back({band.row_begin, band.row_end});
      }
    }
    append(edges[s], edges[s + 1], rows, to);
  }
  return to;
}

// What a tile costs in the measure of the level search.
class TileCost {
 public:
  explicit TileCost(const Geometry& geometry) : geometry_(geometry) {}

  // Of a tile of `rows` rows in which the columns between `edges` are seen where `seen` says so.
  double operator()(int64_t rows, const std::vector<int64_t>& edges, const std::vector<Interval>& seen) const {
    int64_t columns = 0, blocks = 0;
    size_t next = 0;
    for (size_t e = 0; e + 1 < edges.size(); ++e) {
      while (next < seen.size() && seen[next].end <= edges[e]) ++next;
      if (next == seen.size() || seen[next].begin > edges[e]) continue;
      const int64_t width = edges[e + 1] - edges[e];
      columns += width;
      blocks += ceil_divide(width, geometry_.column_block);
    }
    return static_cast<double>(rounded_rows(rows, geometry_) * columns) + fixed_price(blocks, geometry_);
  }

 private:
  const Geometry& geometry_;
};

// The columns of the tile being filled.
struct Filling {
  int64_t rows = 0;
  std::vector<int64_t> edges;
  std::vector<Interval> seen;
  double cost = 0;
};

Filling filling_of(const Bands& all, const Band& band) {
  Filling one;
  for (int64_t n = band.interval_begin; n < band.interval_end; ++n) {
    one.edges.push_back(all.intervals[n].begin);
    one.edges.push_back(all.intervals[n].end);
    one.seen.push_back(all.intervals[n]);
  }
  return one;
}

Filling united(const Filling& a, const Filling& b) {
  Filling both{.rows = a.rows + b.rows};
  both.edges.reserve(a.edges.size() + b.edges.size());
  std::set_union(a.edges.begin(), a.edges.end(), b.edges.begin(), b.edges.end(), std::back_inserter(both.edges));
  std::vector<Interval> all(a.seen.size() + b.seen.size());
  std::merge(a.seen.begin(), a.seen.end(), b.seen.begin(), b.seen.end(), all.begin());
  for (const Interval& x : all) {
    if (!both.seen.empty() && x.begin <= both.seen.back().end) {
      both.seen.back().end = std::max(both.seen.back().end, x.end);
    } else {
      both.seen.push_back(x);
    }
  }
  return both;
}

}  // namespace

Bands make_bands(const Pattern& pattern, const ClassSpec& spec, const Scope& scope) {
  const int64_t query_begin = scope.transposed ? scope.column_begin : scope.row_begin;
  const int64_t query_end = scope.transposed ? scope.column_end : scope.row_end;
  const Documents& documents = *spec.documents;
  Bands result;
  std::vector<Interval> columns;
  for (size_t d = 1; d < documents.size(); ++d) {
    const int64_t begin = std::max(query_begin, documents[d - 1]), end = std::min(query_end, documents[d]);
    if (begin >= end) continue;
    const std::vector<Grid> grids = make_grids(pattern, spec, scope, d, begin, end);
    for (int64_t row = begin; row < end;) {
      int64_t next = end;
      columns.clear();
      for (const Grid& grid : grids) {
        next = std::min(next, grid.next_edge(row));
        grid.add_columns(row, columns);
      }
      if (grids.size() > 1) pattern::normalise(columns);
      append(row, next, columns, result);
      row = next;
    }
  }
  return scope.transposed ? transposed(result) : result;
}

std::vector<int64_t> band_cuts(const Bands& bands, const Scope& scope) {
  const int64_t tile_rows = scope.geometry.tile_rows;
  const TileCost cost(scope.geometry);
  std::vector<int64_t> cuts;
  Filling tile;
  int64_t end = scope.row_begin;  // of the tile at hand
  const auto begin_tile = [&](int64_t position) {
    cuts.push_back(position);
    tile = {};
  };
  for (const Band& band : bands.bands) {
    if (end < band.row_begin) begin_tile(band.row_begin);
    for (int64_t row = band.row_begin; row < band.row_end;) {
      Filling alone = filling_of(bands, band);
      if (tile.rows == tile_rows) begin_tile(row);
      alone.rows = std::min(band.row_end - row, tile_rows);
      alone.cost = cost(alone.rows, alone.edges, alone.seen);
      if (tile.rows > 0) {
        // A band that does not fit as a whole would leave a remnant: it begins a tile.
        if (tile.rows + alone.rows <= tile_rows) {
          Filling both = united(tile, alone);
          both.cost = cost(both.rows, both.edges, both.seen);
          if (both.cost <= tile.cost + alone.cost) {
            tile = std::move(both);
            end = row += alone.rows;
            continue;
          }
        }
        begin_tile(row);
      }
      tile = std::move(alone);
      end = row += alone.rows;
    }
  }
  if (end < scope.row_end) cuts.push_back(end);
  return cuts;
}

}  // namespace longstride::plan
