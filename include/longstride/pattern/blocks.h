// Block-sparse patterns: who sees whom on a grid of blocks. A BlockPattern is a value, checked once when it is made; a
// Pattern (pattern.h) holds any number of them, whose union counts once, beside its dilated groups. Definitions with
// sources: docs/block_sparse.md. Torch-free.
//
// Words. A document of N tokens has nb = ceil(N / block_size) blocks a side, the last one ragged; i is a query block, j
// a key block, both counted from the document's start. Pair (q, k) is seen iff its block (i, j) is active and, if
// causal, k <= q. Every rule but a BlockList keeps the diagonal j = i of every row. The *density* of a pattern is the
// share of the nb^2 blocks that is active; of the nb (nb + 1) / 2 on and below the diagonal if causal.
//
// A density that is asked for is met as nearly as the rule can: to the nearest distance or window, under RandomBlocks
// to the block. One that is out of the rule's reach (the diagonal alone is denser, or all that the rule can show is
// less) is an Error that names the nearest. It is held against the longest document of a call; shorter ones, and a
// document of one block, take the nearest. Causal RandomBlocks, whose rows are those of every longer one, are not held.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace longstride {

// abs(i - j) <= floor(ceil(window / block_size) / 2). Give one of the two.
struct LocalWindow {
  std::optional<int64_t> window;  // tokens, >= 1
  std::optional<double> density;  // in (0, 1]: the window that comes nearest
  bool operator==(const LocalWindow&) const = default;
};

// j = i, or abs(i - j) = n * d for n = 1..K, d = rates[h mod number of rates] of KV head h. Give one of reach, density.
struct DilatedSparse {
  std::vector<int64_t> rates = {1};  // distances in blocks, each >= 1
  std::optional<double> density;     // in (0, 1]: the K that comes nearest
  std::optional<int64_t> reach;      // K, >= 0
  bool operator==(const DilatedSparse&) const = default;
};

// The local window, and the rows and columns below ceil(global_tokens / block_size).
struct GlobalLocal {
  int64_t window = 0;         // tokens, >= 1
  int64_t global_tokens = 0;  // >= 0
  bool operator==(const GlobalLocal&) const = default;
};

// abs(i - j) <= 1, or j mod stride_blocks = 0.
struct Strided {
  int64_t stride_blocks = 1;  // >= 1
  bool operator==(const Strided&) const = default;
};

// The blocks of a document laid out row by row on a grid of `grid_columns` columns: i and j stand in one row or one
// column of it.
struct Axial {
  std::optional<int64_t> grid_columns;  // >= 1; unset: ceil(sqrt(nb)), nearly square
  bool operator==(const Axial&) const = default;
};

// Every row its share of blocks, the diagonal among them and the others drawn without replacement: by KV head, the same
// for every batch row and on every machine. Rows whose diagonal is more than their share are made up for by the next.
struct RandomBlocks {
  double density = 0;  // in (0, 1]
  int64_t seed = 0;
  bool operator==(const RandomBlocks&) const = default;
};

// A union over levels: rows i with i mod (stride / block_size) = 0 see their window, or everything.
struct HierarchyLevel {
  int64_t stride = 1;             // tokens, a multiple of block_size
  std::optional<int64_t> window;  // tokens, >= 1, as in LocalWindow; unset: everything
  bool operator==(const HierarchyLevel&) const = default;
};
struct Hierarchical {
  std::vector<HierarchyLevel> levels;  // at least one; a row of no level sees its diagonal
  bool operator==(const Hierarchical&) const = default;
};

struct Block {
  int32_t batch_row = -1;  // -1: every one
  int32_t kv_head = -1;    // -1: every one
  int32_t query_block = 0;
  int32_t key_block = 0;
  auto operator<=>(const Block&) const = default;
};

// Exactly these blocks, of the grid over all len_k positions; nothing is added, so a row that is not named sees
// nothing. A block named twice counts once. Positions beyond a batch row's length see nothing; packed documents are
// refused.
struct BlockList {
  std::vector<Block> blocks;  // in any order
  bool operator==(const BlockList&) const = default;
};

using BlockRule =
    std::variant<LocalWindow, DilatedSparse, GlobalLocal, Strided, Axial, RandomBlocks, Hierarchical, BlockList>;

class BlockPattern {
 public:
  // block_size in tokens, >= 1. Throws Error naming the argument.
  BlockPattern(int64_t block_size, BlockRule rule);

  int64_t block_size() const { return block_size_; }
  const BlockRule& rule() const { return rule_; }
  // "local_window", "dilated_sparse", "global_local", "strided", "axial", "random", "hierarchical", "list"
  const char* name() const;

  // The active blocks (i, j) of one document of `len` tokens, in order of i, then j; if causal, those with j <= i.
  // Throws Error if the density asked for cannot be reached.
  std::vector<std::pair<int64_t, int64_t>> active_blocks(int64_t len, bool causal, int64_t kv_head = 0,
                                                         int64_t batch_row = 0) const;
  // Their share; 0 if there is no block.
  double density(int64_t len, bool causal, int64_t kv_head = 0, int64_t batch_row = 0) const;

  bool operator==(const BlockPattern&) const = default;

 private:
  int64_t block_size_;
  BlockRule rule_;
};

// The names of the rules, in the order of BlockRule.
const std::vector<std::string>& block_pattern_names();

}  // namespace longstride
