// Counts pairs segment by segment, equal segments once, and rectangles by their edges.
#include "parallel/survey.h"

#include <algorithm>

#include "parallel/needs.h"

namespace longstride::parallel {
namespace {

using pattern::Interval;

// Pairs of the queries in a piece with the samples of their segment.
void add_segment(const Progression& sampled, const Piece& piece, bool causal, double times, SourceLoad& to) {
  const Progression queries = sampled.within(piece.begin, piece.end - 1);
  if (queries.count == 0) return;
  const auto count = static_cast<double>(queries.count);
  // Causal: the i-th sample sees i + 1.
  const double before = static_cast<double>(queries.first - sampled.first) / static_cast<double>(sampled.step);
  to.queries += times * count;
  to.pairs += times * count * (causal ? before + (count + 1) / 2 : static_cast<double>(sampled.count));
}

void add_group(const ShardedCall& call, const plan::ClassSpec& spec, const plan::Sampling& of, const Piece& piece,
               double places, SourceLoad& to) {
  const plan::Documents& documents = *spec.documents;
  const auto first_end = std::upper_bound(documents.begin(), documents.end(), piece.begin) - documents.begin();
  for (size_t d = first_end; d < documents.size() && documents[d - 1] < piece.end; ++d) {
    const int64_t begin = documents[d - 1], end = documents[d];
    const auto add = [&](int64_t n, double times) {
      const int64_t from = begin + n * of.segment, to_end = std::min(end, from + of.segment);
      add_segment(samples(of, from, to_end), piece, call.pattern.causal(), times, to);
    };
    const int64_t first = (std::max(begin, piece.begin) - begin) / of.segment;
    const int64_t last = (std::min(end, piece.end) - 1 - begin) / of.segment;
    add(first, places);
    if (last > first) add(last, places);
    // Those between are whole, and alike.
    if (last > first + 1) add(first + 1, places * static_cast<double>(last - first - 1));
  }
}

// Pairs of a rectangle of single tokens. A row sees [max(column_begin, row + least), min(column_end, row + most + 1)),
// causal up to itself: linear in the row between the rows at which one of these ends takes over from another.
double pairs_of(const plan::Rectangle& r, bool causal) {
  const int64_t most = causal ? std::min<int64_t>(r.most, 0) : r.most;
  const auto seen = [&](int64_t row) {
    return std::max<int64_t>(0, std::min(r.column_end, row + most + 1) - std::max(r.column_begin, row + r.least));
  };
  std::vector<int64_t> turns = {r.row_begin, r.row_end};
  for (const int64_t turn :
       {r.column_end - most - 1, r.column_begin - most - 1, r.column_begin - r.least, r.column_end - r.least}) {
    for (const int64_t row : {turn, turn + 1}) {
      if (row > r.row_begin && row < r.row_end) turns.push_back(row);
    }
  }
  std::sort(turns.begin(), turns.end());
  double pairs = 0;
  for (size_t n = 0; n + 1 < turns.size(); ++n) {
    const int64_t rows = turns[n + 1] - turns[n];
    if (rows == 0) continue;
    pairs += static_cast<double>(rows) * static_cast<double>(seen(turns[n]) + seen(turns[n + 1] - 1)) / 2;
  }
  return pairs;
}

void add_blocks(const ShardedCall& call, const plan::ClassSpec& spec, const Piece& piece, double places,
                SourceLoad& to) {
  std::vector<Interval> rows;
  for (const plan::Rectangle& r : block_rectangles(call, spec, piece.begin, piece.end)) {
    to.pairs += places * pairs_of(r, call.pattern.causal());
    rows.push_back({r.row_begin, r.row_end});
  }
  pattern::normalise(rows);
  for (const Interval& x : rows) to.queries += places * static_cast<double>(x.end - x.begin);
}

// The chunks in which keys lie: those between the first and the last, or, of fewer keys than these, the keys' own.
void add_chunks(const Shards& shards, const Progression& keys, std::vector<Interval>& to) {
  const int64_t first = shards.chunk_at(keys.first), last = shards.chunk_at(keys.last());
  if (keys.count > last - first) {
    to.push_back({first, last + 1});
    return;
  }
  for (int64_t i = 0; i < keys.count; ++i) {
    const int64_t chunk = shards.chunk_at(keys.first + i * keys.step);
    to.push_back({chunk, chunk + 1});
  }
}

int64_t owners(const Shards& shards, std::vector<Interval>& chunks) {
  pattern::normalise(chunks);
  std::vector<int64_t> ranks;
  for (const Interval& x : chunks) {
    for (int64_t n = x.begin; n < x.end; ++n) {
      const Piece piece = shards.chunk(n);
      if (piece.begin < piece.end) ranks.push_back(piece.rank);
    }
  }
  std::sort(ranks.begin(), ranks.end());
  return std::unique(ranks.begin(), ranks.end()) - ranks.begin();
}

// How many chunks lie from the first of the keys to the last, or to the queries' own.
int64_t spread(const Shards& shards, const Piece& of_queries, const Progression& keys) {
  const int64_t own = shards.chunk_at(of_queries.begin);
  const int64_t first = std::min(shards.chunk_at(keys.first), own), last = std::max(shards.chunk_at(keys.last()), own);
  return std::min(last - first + 1, shards.ranks());
}

RankLoad load_of(const ShardedCall& call, int64_t rank) {
  RankLoad load{.sources = std::vector<SourceLoad>(call.sources())};
  const std::vector<Piece> pieces = call.shards.positions(rank);
  std::vector<Interval> chunks;
  for (int64_t c = 0; c < call.class_count(); ++c) {
    const plan::ClassSpec& spec = call.classes.specs[c];
    const auto places = static_cast<double>(call.places_of[c]);
    for (const Piece& piece : pieces) {
      for (size_t s = 0; s < spec.samplings.size(); ++s) {
        SourceLoad& source = load.sources[call.groups_of[c][s]];
        add_group(call, spec, spec.samplings[s], piece, places, source);
        for (const Straddling& one : straddling(call, spec, spec.samplings[s], piece)) {
          source.ranks = std::max(source.ranks, spread(call.shards, piece, one.keys));
        }
      }
      add_blocks(call, spec, piece, places, load.sources.back());
    }
    const Need of_place = need(call, rank, c);
    load.rows += of_place.count * call.places_of[c];
    for (int64_t s = 0; s < call.sources(); ++s) load.sources[s].alone += of_place.alone[s] * call.places_of[c];
    for (const Rows& rows : of_place.rows) {
      SourceLoad& source = load.sources[rows.source];
      source.added += rows.keys.count * call.places_of[c];
      if (rows.source == call.groups()) {
        source.ranks = std::max(source.ranks, spread(call.shards, pieces.front(), rows.keys));
      }
      add_chunks(call.shards, rows.keys, chunks);
    }
  }
  // Segments whose keys all lie in the rank's other piece.
  for (SourceLoad& source : load.sources) source.ranks = source.alone > 0 ? source.ranks : 1;
  load.peers = owners(call.shards, chunks);
  return load;
}

std::vector<RankLoad> loads_of(const ShardedCall& call) {
  std::vector<RankLoad> loads;
  loads.reserve(call.shards.ranks());
  for (int64_t rank = 0; rank < call.shards.ranks(); ++rank) loads.push_back(load_of(call, rank));
  return loads;
}

}  // namespace

Survey survey(const ShardedCall& call) {
  Survey result{.ranks = loads_of(call)};
  for (int64_t u = 2; u <= std::min(call.extent.kv_heads, call.shards.ranks()); ++u) {
    if (call.extent.kv_heads % u == 0 && call.shards.ranks() % u == 0)
      result.joined[u] = loads_of({call.pattern, call.extent, call.shards.joined(u)});
  }
  return result;
}

}  // namespace longstride::parallel
