// Segments and block rectangles cut at the pieces of a shard and at the progressions that were received.
#include "parallel/slice.h"

#include <algorithm>
#include <span>

#include "core/checked.h"
#include "parallel/progressions.h"

namespace longstride::parallel {
namespace {

class Cutter {
 public:
  Cutter(const ShardedCall& call, int64_t rank, int64_t class_id, const Need& need)
      : call_(call), spec_(call.classes.specs[class_id]), pieces_(call.shards.positions(rank)), need_(need) {
    // The rows of the block patterns stand together, ascending.
    const auto of_blocks = [&](const Rows& rows) { return rows.source == call.groups(); };
    const auto begin = std::find_if(need.rows.begin(), need.rows.end(), of_blocks);
    block_rows_ = {begin, std::find_if_not(begin, need.rows.end(), of_blocks)};
  }

  // `local`: what the shard's own keys give, too.
  Slice cut(bool local) {
    for (const Piece& piece : pieces_) {
      for (const plan::Sampling& of : spec_.samplings) {
        if (local) cut_group(of, piece);
        for (const Straddling& one : straddling(call_, spec_, of, piece)) add_received(one, piece);
      }
      for (const plan::Rectangle& r : block_rectangles(call_, spec_, piece.begin, piece.end)) {
        cut_blocks(r, piece, local);
      }
    }
    return std::move(result_);
  }

 private:
  void add_received(const Straddling& one, const Piece& piece) {
    for (const Rows& rows : need_.rows) {
      const Progression met = common(one.keys, rows.keys);
      if (met.count == 0) continue;
      result_.received.push_back({one.queries, row(one.queries, piece), met,
                                  rows.received + (met.first - rows.keys.first) / rows.keys.step,
                                  std::max<int64_t>(1, met.step / rows.keys.step)});
    }
  }

  void cut_group(const plan::Sampling& of, const Piece& piece) {
    const plan::Documents& documents = *spec_.documents;
    const auto first_end = std::upper_bound(documents.begin(), documents.end(), piece.begin) - documents.begin();
    for (size_t d = first_end; d < documents.size() && documents[d - 1] < piece.end; ++d) {
      const int64_t begin = documents[d - 1], end = documents[d];
      const int64_t skipped = (std::max(begin, piece.begin) - begin) / of.segment * of.segment;
      for (int64_t at = begin + skipped; at < std::min(end, piece.end); at += of.segment) {
        cut_segment(of, at, std::min(end, at + of.segment), end - begin, piece);
      }
    }
  }

  void cut_segment(const plan::Sampling& of, int64_t begin, int64_t end, int64_t document, const Piece& piece) {
    const Progression sampled = samples(of, begin, end);
    const Progression queries = sampled.within(piece.begin, piece.end - 1);
    if (queries.count == 0) return;
    const bool causal = call_.pattern.causal();
    if (!causal && call_.pattern.options().padding == Padding::kZeroKeys) {
      const int64_t phantoms = core::ceil_divide(std::min(of.segment, document), of.rate) - sampled.count;
      if (phantoms > 0) result_.phantoms.push_back({queries, row(queries, piece), phantoms});
    }
    const Progression keys = sampled.within(begin, causal ? queries.last() : end - 1);
    for (const Piece& own : pieces_) {
      // A diagonal runs only where queries and keys are of one piece: other pieces lie wholly before or after.
      const int64_t high = causal && own == piece ? 0 : Shown::kUnbounded;
      add_local(queries, keys, own, piece, -Shown::kUnbounded, high);
    }
  }

  void cut_blocks(const plan::Rectangle& r, const Piece& piece, bool local) {
    const int64_t high = call_.pattern.causal() ? std::min<int64_t>(r.most, 0) : r.most;
    const int64_t begin = std::max(r.column_begin, r.row_begin + r.least);
    const int64_t end = std::min(r.column_end, r.row_end + high);
    if (begin >= end) return;
    const Progression queries{r.row_begin, 1, r.row_end - r.row_begin}, keys{begin, 1, end - begin};
    if (local) {
      for (const Piece& own : pieces_) add_local(queries, keys, own, piece, r.least, high);
    }
    auto rows = std::ranges::partition_point(block_rows_, [&](const Rows& one) { return one.keys.last() < begin; });
    for (; rows != block_rows_.end() && rows->keys.first < end; ++rows) {
      const Progression met = keys.within(rows->keys.first, rows->keys.last());
      add(queries, met, piece, rows->received + met.first - rows->keys.first, r.least, high, result_.received);
    }
  }

  void add_local(const Progression& queries, const Progression& keys, const Piece& own, const Piece& piece, int64_t low,
                 int64_t high) {
    const Progression met = keys.within(own.begin, own.end - 1);
    if (met.count > 0) add(queries, met, piece, row(met, own), low, high, result_.local);
  }

  // Without the queries that see none of the keys, and the keys that none sees. Keys lie in memory at their own step.
  void add(Progression queries, Progression keys, const Piece& piece, int64_t key_row, int64_t low, int64_t high,
           std::vector<Shown>& to) {
    const int64_t first = keys.first;
    queries = queries.within(keys.first - high, keys.last() - low);
    if (queries.count == 0) return;
    keys = keys.within(queries.first + low, queries.last() + high);
    if (keys.count == 0) return;
    to.push_back({queries, row(queries, piece), keys, key_row + keys.first - first, keys.step, low, high});
  }

  static int64_t row(const Progression& positions, const Piece& piece) {
    return piece.row + positions.first - piece.begin;
  }

  const ShardedCall& call_;
  const plan::ClassSpec& spec_;
  const std::vector<Piece> pieces_;
  const Need& need_;
  std::span<const Rows> block_rows_;
  Slice result_;
};

}  // namespace

Slice slice(const ShardedCall& call, int64_t rank, int64_t class_id, const Need& need) {
  return Cutter(call, rank, class_id, need).cut(true);
}

Slice received_slice(const ShardedCall& call, int64_t rank, int64_t class_id, const Need& need) {
  return Cutter(call, rank, class_id, need).cut(false);
}

}  // namespace longstride::parallel
