// The block-sparse patterns cell by cell, straight from their definitions. Called by oracle/attention.h and by tests.
// It includes nothing of the library. O(blocks^2), and one factor more where a density is searched for.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <set>
#include <vector>

#include "oracle/philox.h"

namespace oracle {

enum class BlockKind {
  kLocalWindow,
  kDilatedSparse,
  kGlobalLocal,
  kStrided,
  kAxial,
  kRandom,
  kHierarchical,
  kList,
  kSlidingWindow
};

// Fields that a kind does not name are not read.
struct BlockRule {
  BlockKind kind = BlockKind::kLocalWindow;
  int64_t block_size = 1;
  int64_t window = 0;          // tokens; 0: from the density
  double density = 0;          // 0: from window or reach
  std::vector<int64_t> rates;  // kDilatedSparse: distance in blocks of KV head j is rates[j mod size]
  int64_t reach = -1;          // kDilatedSparse: K; -1: from the density
  int64_t global_tokens = 0;
  int64_t stride = 0;   // kStrided: in blocks
  int64_t columns = 0;  // kAxial: of the grid; 0: the least c with c * c >= blocks
  uint64_t seed = 0;
  std::vector<std::array<int64_t, 2>> levels;  // kHierarchical: stride and window in tokens; window 0: everything
  int64_t left = -1, right = -1;               // kSlidingWindow, whose block_size is 1: tokens; -1: unbounded
  int64_t sink_tokens = 0;                     // kSlidingWindow
  std::vector<std::array<int64_t, 4>> list;    // batch row or -1, KV head or -1, query block, key block
};

// [query block][key block] of one document: who is active.
using BlockMask = std::vector<std::vector<bool>>;

namespace detail {

inline int64_t blocks_of(int64_t tokens, int64_t block_size) {
  int64_t n = 0;
  while (n * block_size < tokens) ++n;
  return n;
}

inline bool in_window(int64_t i, int64_t j, int64_t tokens, int64_t block_size) {
  return std::abs(i - j) <= std::floor(static_cast<double>(blocks_of(tokens, block_size)) / 2);
}

// A cell of the kinds that are told cell by cell; `reach` stands for K, and for the half window where it comes from the
// density.
inline bool cell(const BlockRule& r, int64_t i, int64_t j, int64_t nb, int64_t head, int64_t reach) {
  switch (r.kind) {
    case BlockKind::kLocalWindow:
      return r.window > 0 ? in_window(i, j, r.window, r.block_size) : std::abs(i - j) <= reach;
    case BlockKind::kDilatedSparse: {
      const int64_t d = r.rates[head % r.rates.size()];
      if (i == j) return true;
      for (int64_t k = 1; k <= reach && k * d < nb; ++k) {
        if (std::abs(i - j) == k * d) return true;
      }
      return false;
    }
    case BlockKind::kGlobalLocal: {
      const int64_t g = blocks_of(r.global_tokens, r.block_size);
      return i < g || j < g || in_window(i, j, r.window, r.block_size);
    }
    case BlockKind::kStrided:
      return std::abs(i - j) <= 1 || j % r.stride == 0;
    case BlockKind::kAxial: {
      int64_t c = r.columns;
      if (c == 0) {
        while (c * c < nb) ++c;
      }
      return i / c == j / c || i % c == j % c;
    }
    case BlockKind::kHierarchical:
      if (i == j) return true;
      for (const auto& [stride, window] : r.levels) {
        if (i * r.block_size % stride != 0) continue;
        if (window == 0 || in_window(i, j, window, r.block_size)) return true;
      }
      return false;
    case BlockKind::kSlidingWindow: {
      const bool not_too_early = r.left == -1 || i - r.left <= j;
      const bool not_too_late = r.right == -1 || j <= i + r.right;
      return (not_too_early && not_too_late) || j < r.sink_tokens;
    }
    case BlockKind::kList:
    case BlockKind::kRandom:
      break;
  }
  return false;
}

// Row i takes what the rows so far are owed: round(density * cells so far), less what they had, at least the diagonal.
// Beside the diagonal c cells are drawn from the n others in order: for t = n - c .. n - 1 a number in [0, t], from the
// first two words of Philox at (i, t, head, 0); t itself where that number is taken.
inline BlockMask random_mask(const BlockRule& r, int64_t nb, bool causal, int64_t head) {
  BlockMask mask(nb, std::vector<bool>(nb, false));
  int64_t cells = 0, had = 0;
  for (int64_t i = 0; i < nb; ++i) {
    std::vector<int64_t> others;
    for (int64_t j = 0; j < (causal ? i + 1 : nb); ++j) {
      ++cells;
      if (j != i) others.push_back(j);
    }
    const auto n = static_cast<int64_t>(others.size());
    int64_t c = static_cast<int64_t>(std::floor(r.density * static_cast<double>(cells) + 0.5)) - had - 1;
    if (c < 0) c = 0;
    if (c > n) c = n;
    had += c + 1;
    mask[i][i] = true;
    std::set<int64_t> taken;
    for (int64_t t = n - c; t < n; ++t) {
      const auto w = philox4x32_10({static_cast<uint32_t>(i), static_cast<uint32_t>(t), static_cast<uint32_t>(head), 0},
                                   {static_cast<uint32_t>(r.seed), static_cast<uint32_t>(r.seed >> 32)});
      // (64-bit word) * (t + 1) / 2^64 by halves.
      const uint64_t low = uint64_t{w[0]} * static_cast<uint64_t>(t + 1);
      const uint64_t high = uint64_t{w[1]} * static_cast<uint64_t>(t + 1);
      const auto x = static_cast<int64_t>((high + (low >> 32)) >> 32);
      taken.insert(taken.count(x) ? t : x);
    }
    for (const int64_t x : taken) mask[i][others[x]] = true;
  }
  return mask;
}

}  // namespace detail

// The mask of a document of `len` tokens.
inline BlockMask block_mask(const BlockRule& r, int64_t len, bool causal, int64_t head, int64_t batch_row) {
  const int64_t nb = detail::blocks_of(len, r.block_size);
  if (r.kind == BlockKind::kRandom) return detail::random_mask(r, nb, causal, head);
  if (r.kind == BlockKind::kList) {
    BlockMask mask(nb, std::vector<bool>(nb, false));
    for (const auto& [b, h, i, j] : r.list) {
      const bool mine = (b == -1 || b == batch_row) && (h == -1 || h == head);
      if (mine && i < nb && j < nb && (!causal || j <= i)) mask[i][j] = true;
    }
    return mask;
  }
  const auto of_reach = [&](int64_t reach) {
    BlockMask mask(nb, std::vector<bool>(nb, false));
    for (int64_t i = 0; i < nb; ++i) {
      for (int64_t j = 0; j < (causal ? i + 1 : nb); ++j) mask[i][j] = detail::cell(r, i, j, nb, head, reach);
    }
    return mask;
  };
  const bool searched =
      (r.kind == BlockKind::kLocalWindow && r.window == 0) || (r.kind == BlockKind::kDilatedSparse && r.reach < 0);
  if (!searched) return of_reach(r.reach);
  // Every reach is tried; of equally near ones the least.
  const double all = static_cast<double>(nb) * static_cast<double>(causal ? nb + 1 : 2 * nb) / 2;
  BlockMask best;
  double off = -1;
  for (int64_t reach = 0; reach < std::max<int64_t>(1, nb); ++reach) {
    BlockMask mask = of_reach(reach);
    int64_t active = 0;
    for (const auto& row : mask) {
      for (const bool cell : row) active += cell;
    }
    const double now = std::abs(static_cast<double>(active) - r.density * all);
    if (off < 0 || now < off) {
      off = now;
      best = std::move(mask);
    }
  }
  return best;
}

}  // namespace oracle
