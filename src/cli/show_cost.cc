// Whether drawing or planning what was asked for would take too long, before it is done. The limits are worth some
// seconds and some hundred MiB on one core.
#include "show_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "longstride/error.h"

namespace longstride::cli {
namespace {

constexpr int64_t kMostSegments = int64_t{1} << 22;     // of all groups: each meets 64 columns of cells
constexpr int64_t kMostTiles = int64_t{1} << 21;        // about 100 bytes each
constexpr int64_t kMostBlocks = int64_t{1} << 22;       // active ones, of all block patterns
constexpr int64_t kMostBlockTokens = int64_t{1} << 28;  // active blocks times the rows of one
constexpr double kMostRankSteps = 1073741824.0;         // 2^30: 1,024 ranks, 32 kinds of heads, 30 groups
constexpr double kMostPairs = 72057594037927936.0;      // 2^56: counts of pairs stay far within 64 bits

constexpr const char* kShorter = "take a shorter --len: the pattern repeats";

int64_t ceil_divide(int64_t a, int64_t b) { return a / b + (a % b > 0 ? 1 : 0); }

// The least common multiple, `most` if it is beyond that.
int64_t common_multiple(int64_t a, int64_t b, int64_t most) {
  const int64_t share = b / std::gcd(a, b);
  return a > most / share ? most : a * share;
}

[[noreturn]] void refuse(const Extent& extent, const char* what, double count, double most, const char* remedy) {
  throw Error(fmt::format("--len: {} tokens of this pattern have about {:.0f} {}, show takes up to {:.0f}; {}",
                          extent.len_k, count, what, most, remedy));
}

// Active blocks in a document of `len` tokens, counted at growing lengths: it stops where they are more than `most`.
int64_t active_blocks(const BlockPattern& block, int64_t len, bool causal, int64_t most) {
  const int64_t rows = ceil_divide(len, block.block_size());
  for (int64_t n = std::min<int64_t>(rows, 1024);; n = n > rows / 2 ? rows : 2 * n) {
    const auto all = static_cast<double>(n) * (causal ? (static_cast<double>(n) + 1) / 2 : static_cast<double>(n));
    const double active = all * block.density(n * block.block_size(), causal, 0);
    if (n == rows || active > static_cast<double>(most)) return static_cast<int64_t>(active);
  }
}

// What block patterns would make of it. By rank a window costs one rectangle each, however long.
void check_blocks(const Pattern& pattern, const Extent& extent, bool by_rank) {
  const int64_t len = extent.len_k;
  const auto documents = std::max<int64_t>(1, std::ssize(extent.cu_seqlens) - 1);
  int64_t longest = len;
  if (documents > 1) {
    longest = 0;
    for (size_t i = 0; i + 1 < extent.cu_seqlens.size(); ++i)
      longest = std::max(longest, extent.cu_seqlens[i + 1] - extent.cu_seqlens[i]);
  }
  for (const BlockPattern& block : pattern.blocks()) {
    if (by_rank && block.window()) continue;
    const int64_t most = std::min(kMostBlocks, kMostBlockTokens / block.block_size());
    const int64_t rows_of_blocks = ceil_divide(len, block.block_size());
    if (rows_of_blocks > most) refuse(extent, "rows of blocks", static_cast<double>(rows_of_blocks), most, kShorter);
    if (block.window()) continue;  // two stretches a row, however wide
    const int64_t active = active_blocks(block, longest, pattern.causal(), most);
    if (active > most / ceil_divide(len, longest))
      refuse(extent, "active blocks, or more", static_cast<double>(active), most, kShorter);
  }
}

}  // namespace

void check_show_cost(const Pattern& pattern, const Extent& extent, const Geometry& geometry) {
  const int64_t len = extent.len_k;
  if (len == 0) return;
  const auto documents = std::max<int64_t>(1, std::ssize(extent.cu_seqlens) - 1);
  int64_t segments = 0, period = 1, residues = 1, rows = 0;
  double pairs = 0;
  for (const Group& group : pattern.groups()) {
    segments += ceil_divide(len, group.segment) + documents;
    period = common_multiple(period, std::min(group.segment, len), len);
    residues = common_multiple(residues, group.rate, extent.kv_heads);
    rows += 1;
    pairs += static_cast<double>(len) * static_cast<double>(std::min(group.segment, len)) *
             static_cast<double>(extent.heads);
  }
  if (segments > kMostSegments) refuse(extent, "segments", static_cast<double>(segments), kMostSegments, kShorter);
  // A plan describes one period of the groups, or all of the sequence: a row of each group, of each kind of head.
  const double tiles = static_cast<double>(documents > 1 ? len : period) / geometry.tile_rows *
                       static_cast<double>(rows * (pattern.options().offsets ? extent.kv_heads : residues));
  if (tiles > kMostTiles) {
    refuse(extent, "tiles", tiles, kMostTiles,
           "take a shorter --len, larger --tile-rows, or segments that divide each other");
  }
  if (pairs > kMostPairs) refuse(extent, "pairs", pairs, kMostPairs, kShorter);
  check_blocks(pattern, extent, false);
}

void check_ranks_cost(const Pattern& pattern, const Extent& extent, int64_t ranks) {
  if (extent.len_k == 0) return;
  int64_t residues = 1;
  for (const Group& group : pattern.groups()) residues = common_multiple(residues, group.rate, extent.kv_heads);
  // Of every rank and kind of head the groups, and the ranks that it may need keys of.
  const double steps = static_cast<double>(ranks) * static_cast<double>(ranks + 1) *
                       static_cast<double>(pattern.options().offsets ? extent.kv_heads : residues) *
                       static_cast<double>(std::max<size_t>(1, pattern.groups().size()));
  if (steps > kMostRankSteps)
    refuse(extent, "steps to plan for ranks", steps, kMostRankSteps, "take fewer --ranks or --kv-heads");
  check_blocks(pattern, extent, true);
}

}  // namespace longstride::cli
