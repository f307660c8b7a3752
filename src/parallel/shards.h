// Who holds which positions of a sequence: the layout of context parallelism as a value. Called by everything that
// plans for ranks, and by whoever cuts a sequence into shards or needs the positions of one (rotary embeddings,
// labels).
//
// A sequence is cut into *chunks*, intervals of positions; every chunk lies with one rank, whose shard is its chunks in
// ascending order. Contiguous: rank i holds chunk i. Zigzag: it holds chunks i and 2P - 1 - i of 2P, so that under a
// causal mask every rank has as many pairs.
#pragma once

#include <cstdint>
#include <vector>

namespace longstride::parallel {

enum class Layout { kContiguous, kZigzag };
const char* name(Layout);  // "contiguous" | "zigzag"

// Positions [begin, end), which are rows [row, row + end - begin) of the shard of `rank`.
struct Piece {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t rank = 0;
  int64_t row = 0;
  bool operator==(const Piece&) const = default;
};

class Shards {
 public:
  // Throw Error: ranks not in [1, kMostRanks], len or a length negative, more than core::kMostTokens tokens in all.
  static constexpr int64_t kMostRanks = int64_t{1} << 20;
  // Contiguous, as even as can be: the first len mod ranks shards have one token more.
  static Shards even(int64_t len, int64_t ranks);
  // Contiguous, with a length in tokens for every rank; 0 is a shard like any other.
  static Shards of_lengths(const std::vector<int64_t>& lengths);
  // 2 * ranks chunks, as even as can be.
  static Shards zigzag(int64_t len, int64_t ranks);

  // Ranks u * i, ..., u * i + u - 1 as rank i. Throws Error if u does not divide the ranks.
  Shards joined(int64_t u) const;

  Layout layout() const { return layout_; }
  int64_t ranks() const { return ranks_; }
  int64_t len() const { return cuts_.back(); }
  int64_t rows(int64_t rank) const;  // of its shard

  int64_t chunks() const { return std::ssize(cuts_) - 1; }
  int64_t chunk_at(int64_t position) const;  // the one that holds it; 0 <= position < len
  Piece chunk(int64_t number) const;

  // The chunks of a rank that are not empty, ascending: the positions of its rows, in their order. Throws Error if
  // there is no such rank.
  std::vector<Piece> positions(int64_t rank) const;

  bool operator==(const Shards&) const = default;

 private:
  Shards(Layout layout, int64_t ranks, std::vector<int64_t> cuts);

  Layout layout_;
  int64_t ranks_;
  std::vector<int64_t> cuts_;  // chunk n is [cuts_[n], cuts_[n + 1])
};

}  // namespace longstride::parallel
