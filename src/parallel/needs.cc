// Rectangles to keys: first each source by itself, then their union, the short strides before the long ones, since of
// two groups that share samples the rarer ones lie among the denser.
#include "parallel/needs.h"

#include <algorithm>
#include <limits>

#include "parallel/progressions.h"
#include "plan/bands.h"
#include "plan/level.h"

namespace longstride::parallel {
namespace {

using pattern::Interval;

// What a rank needs of a group, its own rows included: one progression a straddling segment, ascending.
std::vector<Progression> group_keys(const ShardedCall& call, const plan::ClassSpec& spec, const plan::Sampling& of,
                                    const std::vector<Piece>& pieces) {
  std::vector<Progression> keys;
  for (const Piece& piece : pieces) {
    for (const Straddling& s : straddling(call, spec, of, piece)) {
      // Two pieces of one segment: causal queries of the later one see what those of the earlier one do.
      if (!keys.empty() && keys.back().first == s.keys.first) {
        keys.back().count = std::max(keys.back().count, s.keys.count);
      } else {
        keys.push_back(s.keys);
      }
    }
  }
  return keys;
}

// The same of the block patterns, as ranges.
std::vector<Progression> block_keys(const ShardedCall& call, const plan::ClassSpec& spec,
                                    const std::vector<Piece>& pieces) {
  std::vector<Interval> seen;
  for (const Piece& piece : pieces) {
    for (const plan::Rectangle& r : block_rectangles(call, spec, piece.begin, piece.end)) {
      const int64_t last_row = r.row_end - 1;
      const int64_t end = std::min(r.column_end, last_row + r.most + 1);
      seen.push_back(
          {std::max(r.column_begin, r.row_begin + r.least), call.pattern.causal() ? std::min(end, last_row + 1) : end});
    }
  }
  pattern::normalise(seen);
  std::vector<Progression> keys;
  for (const Interval& x : seen) keys.push_back({x.begin, 1, x.end - x.begin});
  return keys;
}

// A source and what it needs.
struct Source {
  int32_t id = 0;
  int64_t step = 1;
  std::vector<Progression> keys;
};

// What sources before brought, and what the rank has.
class Taken {
 public:
  explicit Taken(std::vector<Interval> own) : intervals_(std::move(own)) {}

  std::vector<Progression> outside(const Progression& keys) const {
    std::vector<Progression> left;
    append_outside(keys, intervals_, left);
    std::vector<Progression> next;
    for (const Progression& earlier : progressions_) {
      if (earlier.first > keys.last() || earlier.last() < keys.first) continue;
      next.clear();
      for (const Progression& p : left) append_without(p, earlier, next);
      left.swap(next);
    }
    return left;
  }

  void add(const std::vector<Progression>& keys) {
    for (const Progression& p : keys) {
      if (p.step == 1) {
        intervals_.push_back({p.first, p.last() + 1});
      } else {
        progressions_.push_back(p);
      }
    }
    pattern::normalise(intervals_);
  }

 private:
  std::vector<Interval> intervals_;
  std::vector<Progression> progressions_;
};

std::vector<Interval> own_positions(const std::vector<Piece>& pieces) {
  std::vector<Interval> own;
  for (const Piece& p : pieces) own.push_back({p.begin, p.end});
  pattern::normalise(own);
  return own;
}

}  // namespace

Progression samples(const plan::Sampling& of, int64_t begin, int64_t end) {
  if (of.offset >= end - begin) return {};
  return {begin + of.offset, of.rate, (end - begin - 1 - of.offset) / of.rate + 1};
}

std::vector<Straddling> straddling(const ShardedCall& call, const plan::ClassSpec& spec, const plan::Sampling& of,
                                   const Piece& piece) {
  std::vector<Straddling> all;
  const plan::Documents& documents = *spec.documents;
  const auto add = [&](int64_t begin, int64_t end) {
    if (begin >= piece.begin && end <= piece.end) return;
    const Progression sampled = samples(of, begin, end);
    const Progression queries = sampled.within(piece.begin, piece.end - 1);
    if (queries.count == 0) return;
    all.push_back({queries, sampled.within(begin, call.pattern.causal() ? queries.last() : end - 1)});
  };
  const auto add_document = [&](int64_t begin, int64_t end) {
    const int64_t first = (std::max(piece.begin, begin) - begin) / of.segment;
    const int64_t last = (std::min(piece.end, end) - 1 - begin) / of.segment;
    const auto add_segment = [&](int64_t n) {
      add(begin + n * of.segment, std::min(end, begin + (n + 1) * of.segment));
    };
    add_segment(first);
    if (last > first) add_segment(last);
  };
  // Documents and segments between the first and the last lie in the piece.
  const auto document_at = [&](int64_t position) {
    return std::upper_bound(documents.begin(), documents.end(), position) - documents.begin();
  };
  if (documents.empty() || piece.begin >= documents.back()) return all;
  const auto first = document_at(piece.begin), last = document_at(std::min(piece.end, documents.back()) - 1);
  add_document(documents[first - 1], documents[first]);
  if (last > first) add_document(documents[last - 1], documents[last]);
  return all;
}

std::vector<plan::Rectangle> block_rectangles(const ShardedCall& call, const plan::ClassSpec& spec, int64_t begin,
                                              int64_t end) {
  std::vector<plan::Rectangle> all;
  if (call.pattern.blocks().empty() || begin >= end) return all;
  plan::Scope scope{.row_begin = begin,
                    .row_end = end,
                    .column_begin = 0,
                    .column_end = call.extent.len_k,
                    .causal = call.pattern.causal()};
  // No tiles are made of this: one stretch for all rows.
  scope.geometry.tile_rows = std::numeric_limits<int32_t>::max();
  scope.sliding_unit = plan::sliding_unit(call.pattern, scope.geometry, end - begin);
  if (scope.sliding_unit == 0) {
    const plan::Bands bands = plan::make_bands(call.pattern, spec, scope);
    for (const plan::Band& band : bands.bands) {
      for (int64_t n = band.interval_begin; n < band.interval_end; ++n) {
        all.push_back({band.row_begin, band.row_end, bands.intervals[n].begin, bands.intervals[n].end});
      }
    }
    return all;
  }
  plan::Rectangles rectangles = plan::make_rectangles(call.pattern, spec, scope);
  return std::move(rectangles.all);
}

Need need(const ShardedCall& call, int64_t rank, int64_t class_id) {
  const plan::ClassSpec& spec = call.classes.specs[class_id];
  const std::vector<Piece> pieces = call.shards.positions(rank);
  std::vector<Source> sources = {{static_cast<int32_t>(call.groups()), 1, block_keys(call, spec, pieces)}};
  for (size_t s = 0; s < spec.samplings.size(); ++s) {
    const plan::Sampling& of = spec.samplings[s];
    sources.push_back({call.groups_of[class_id][s], of.rate, group_keys(call, spec, of, pieces)});
  }
  std::stable_sort(sources.begin(), sources.end(), [](const Source& a, const Source& b) { return a.step < b.step; });

  const std::vector<Interval> own = own_positions(pieces);
  Taken taken(own);
  Need result{.alone = std::vector<int64_t>(call.sources(), 0)};
  std::vector<Progression> not_own;
  for (const Source& source : sources) {
    not_own.clear();
    for (const Progression& keys : source.keys) {
      append_outside(keys, own, not_own);
      for (const Progression& left : taken.outside(keys)) {
        result.rows.push_back({left, source.id, result.count});
        result.count += left.count;
      }
    }
    for (const Progression& p : not_own) result.alone[source.id] += p.count;
    taken.add(source.keys);
  }
  return result;
}

Need within(const Need& whole, const std::vector<Piece>& pieces) {
  Need result{.alone = std::vector<int64_t>(whole.alone.size(), 0)};
  for (const Rows& rows : whole.rows) {
    for (const Piece& piece : pieces) {
      const Progression keys = rows.keys.within(piece.begin, piece.end - 1);
      if (keys.count == 0) continue;
      result.rows.push_back({keys, rows.source, result.count});
      result.count += keys.count;
    }
  }
  return result;
}

}  // namespace longstride::parallel
