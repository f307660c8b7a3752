// The two layouts.
#include "parallel/shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/limits.h"
#include "core/refuse.h"

namespace longstride::parallel {
namespace {

void check_ranks(int64_t ranks) {
  if (ranks < 1 || ranks > Shards::kMostRanks) {
    core::refuse("ranks", fmt::format("must be in [1, {}]", Shards::kMostRanks), ranks);
  }
}

std::vector<int64_t> even_cuts(int64_t len, int64_t chunks) {
  if (len < 0 || len > core::kMostTokens) {
    core::refuse("len", fmt::format("must be in [0, {}] tokens", core::kMostTokens), len);
  }
  std::vector<int64_t> cuts(chunks + 1);
  for (int64_t n = 0; n <= chunks; ++n) cuts[n] = n * (len / chunks) + std::min(n, len % chunks);
  return cuts;
}

}  // namespace

const char* name(Layout layout) { return layout == Layout::kContiguous ? "contiguous" : "zigzag"; }

Shards::Shards(Layout layout, int64_t ranks, std::vector<int64_t> cuts)
    : layout_(layout), ranks_(ranks), cuts_(std::move(cuts)) {}

Shards Shards::even(int64_t len, int64_t ranks) {
  check_ranks(ranks);
  return {Layout::kContiguous, ranks, even_cuts(len, ranks)};
}

Shards Shards::zigzag(int64_t len, int64_t ranks) {
  check_ranks(ranks);
  return {Layout::kZigzag, ranks, even_cuts(len, 2 * ranks)};
}

Shards Shards::of_lengths(const std::vector<int64_t>& lengths) {
  check_ranks(std::ssize(lengths));
  std::vector<int64_t> cuts = {0};
  for (size_t i = 0; i < lengths.size(); ++i) {
    const int64_t most = core::kMostTokens - cuts.back();
    if (lengths[i] < 0 || lengths[i] > most) {
      core::refuse(fmt::format("lengths[{}]", i),
                   fmt::format("must be in [0, {}], {} tokens in all at most", most, core::kMostTokens), lengths[i]);
    }
    cuts.push_back(cuts.back() + lengths[i]);
  }
  return {Layout::kContiguous, std::ssize(lengths), std::move(cuts)};
}

Shards Shards::joined(int64_t u) const {
  if (u < 1 || ranks_ % u != 0)
    core::refuse("ranks", fmt::format("must be a multiple of the {} that are taken as one", u), ranks_);
  std::vector<int64_t> cuts;
  for (size_t n = 0; n < cuts_.size(); n += static_cast<size_t>(u)) cuts.push_back(cuts_[n]);
  return {layout_, ranks_ / u, std::move(cuts)};
}

int64_t Shards::chunk_at(int64_t position) const {
  return std::upper_bound(cuts_.begin(), cuts_.end(), position) - cuts_.begin() - 1;
}

Piece Shards::chunk(int64_t number) const {
  Piece piece{cuts_[number], cuts_[number + 1], number, 0};
  if (layout_ == Layout::kZigzag && number >= ranks_) {
    piece.rank = 2 * ranks_ - 1 - number;
    piece.row = cuts_[piece.rank + 1] - cuts_[piece.rank];
  }
  return piece;
}

std::vector<Piece> Shards::positions(int64_t rank) const {
  if (rank < 0 || rank >= ranks_) core::refuse("rank", fmt::format("must be in [0, {})", ranks_), rank);
  std::vector<Piece> pieces = {chunk(rank)};
  if (layout_ == Layout::kZigzag) pieces.push_back(chunk(2 * ranks_ - 1 - rank));
  std::erase_if(pieces, [](const Piece& p) { return p.begin == p.end; });
  return pieces;
}

int64_t Shards::rows(int64_t rank) const {
  int64_t rows = 0;
  for (const Piece& p : positions(rank)) rows += p.end - p.begin;
  return rows;
}

}  // namespace longstride::parallel
