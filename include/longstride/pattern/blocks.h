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

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace longstride {

// What a rule says of a field beside its name.
struct FieldNote {
  const char* meaning;       // one line, with its unit and values
  bool has_default = false;  // JSON may leave it out; a std::optional it always may
};

// A rule describes itself, and nothing that can be asked of it is answered elsewhere but check() in blocks.cc and its
// rows in block_rows.cc. JSON, hashing, the size of a cached key, the factory and its help are made from
//
//   kName             in JSON
//   fields()          visit(name, field, FieldNote) of every member, in the order of JSON. One called "density" is also
//                     read as "sparsity_ratio" = 1 - density.
//   usual()           what the factory takes for what is not given, at a block_size. Of std::optional fields one that
//                     is given stands for all. A rule that has none is not made by the factory.
//   variant()         equal for (batch row, KV head) that see the same blocks; 0: all do. Those of one variant share a
//                     plan.
//   needed_to_stay()  what must be given so that its causal rows are those of every longer sequence; "": they are.
//   lookback()        how far back its rows look, at a block_size; none: some keys are never done with.
//   kBlockSize        of a rule in tokens alone: the one block_size that it takes, which JSON leaves out.

// In tokens: query q sees no key in [sinks, floor(q / grain) * grain - back), and the rule still shows the same pairs
// when all positions from the sinks on move by a multiple of grain.
struct Lookback {
  int64_t sinks = 0;
  int64_t back = 0;
  int64_t grain = 1;
};

// Of rows that see abs(i - j) <= floor(ceil(window / block_size) / 2) and the blocks of the first `global` tokens.
constexpr Lookback window_lookback(int64_t window, int64_t block_size, int64_t global = 0) {
  const auto blocks = [block_size](int64_t tokens) { return tokens / block_size + (tokens % block_size != 0); };
  return {blocks(global) * block_size, blocks(window) / 2 * block_size, block_size};
}

inline constexpr FieldNote kWindowNote = {"tokens that a query sees around it"};
inline constexpr FieldNote kDensityNote = {"1 - sparsity_ratio; give one of the two"};

// abs(i - j) <= floor(ceil(window / block_size) / 2). Give one of the two.
struct LocalWindow {
  std::optional<int64_t> window;  // tokens, >= 1
  std::optional<double> density;  // in (0, 1]: the window that comes nearest
  bool operator==(const LocalWindow&) const = default;

  static constexpr const char* kName = "local_window";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("window", self.window, kWindowNote);
    visit("density", self.density, kDensityNote);
  }
  static LocalWindow usual(int64_t) { return {.density = 1 - 0.9}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return density ? "window" : ""; }
  std::optional<Lookback> lookback(int64_t b) const {
    return window ? std::optional(window_lookback(*window, b)) : std::nullopt;
  }
};

// j = i, or abs(i - j) = n * d for n = 1..K, d = rates[h mod number of rates] of KV head h. Give one of reach, density.
struct DilatedSparse {
  std::vector<int64_t> rates = {1};  // distances in blocks, each >= 1
  std::optional<double> density;     // in (0, 1]: the K that comes nearest
  std::optional<int64_t> reach;      // K, >= 0
  bool operator==(const DilatedSparse&) const = default;

  static constexpr const char* kName = "dilated_sparse";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("rates", self.rates, {"distances in blocks, one per head in turn", true});
    visit("reach", self.reach, {"how many distances are kept on each side"});
    visit("density", self.density, kDensityNote);
  }
  static DilatedSparse usual(int64_t) { return {.density = 1 - 0.9}; }
  int64_t variant(int64_t, int64_t kv_head) const { return rates[kv_head % static_cast<int64_t>(rates.size())]; }
  const char* needed_to_stay() const { return density ? "reach" : ""; }
  std::optional<Lookback> lookback(int64_t b) const {
    constexpr int64_t kFar = int64_t{1} << 60;
    int64_t farthest = 1;
    for (const int64_t rate : rates) farthest = std::max(farthest, rate);
    if (!reach || *reach > kFar / farthest / b) return {};
    return Lookback{.back = *reach * farthest * b, .grain = b};
  }
};

// The local window, and the rows and columns below ceil(global_tokens / block_size).
struct GlobalLocal {
  int64_t window = 0;         // tokens, >= 1
  int64_t global_tokens = 0;  // >= 0
  bool operator==(const GlobalLocal&) const = default;

  static constexpr const char* kName = "global_local";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("window", self.window, kWindowNote);
    visit("global_tokens", self.global_tokens, {"first tokens that see and are seen by all"});
  }
  static GlobalLocal usual(int64_t) { return {.window = 512, .global_tokens = 64}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return ""; }
  std::optional<Lookback> lookback(int64_t b) const { return window_lookback(window, b, global_tokens); }
};

// abs(i - j) <= 1, or j mod stride_blocks = 0.
struct Strided {
  int64_t stride_blocks = 1;  // >= 1
  bool operator==(const Strided&) const = default;

  static constexpr const char* kName = "strided";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("stride_blocks", self.stride_blocks, {"every how many key blocks one is seen by all"});
  }
  static Strided usual(int64_t) { return {.stride_blocks = 4}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return ""; }
  std::optional<Lookback> lookback(int64_t) const { return {}; }
};

// The blocks of a document laid out row by row on a grid of `grid_columns` columns: i and j stand in one row or one
// column of it.
struct Axial {
  std::optional<int64_t> grid_columns;  // >= 1; unset: ceil(sqrt(nb)), nearly square
  bool operator==(const Axial&) const = default;

  static constexpr const char* kName = "axial";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("grid_columns", self.grid_columns, {"columns of the grid of blocks; unset: nearly square"});
  }
  static Axial usual(int64_t) { return {}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return grid_columns ? "" : "grid_columns"; }
  std::optional<Lookback> lookback(int64_t) const { return {}; }
};

// Every row its share of blocks, the diagonal among them and the others drawn without replacement: by KV head, the same
// for every batch row and on every machine. Rows whose diagonal is more than their share are made up for by the next.
struct RandomBlocks {
  double density = 0;  // in (0, 1]
  int64_t seed = 0;
  bool operator==(const RandomBlocks&) const = default;

  static constexpr const char* kName = "random";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("density", self.density, kDensityNote);
    visit("seed", self.seed, {"of the drawn blocks", true});
  }
  static RandomBlocks usual(int64_t) { return {.density = 1 - 0.9}; }
  int64_t variant(int64_t, int64_t kv_head) const { return kv_head; }
  const char* needed_to_stay() const { return ""; }  // a row's share is counted over the rows up to it
  std::optional<Lookback> lookback(int64_t) const { return {}; }
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

  static constexpr const char* kName = "hierarchical";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("levels", self.levels, {"list of {stride, window} in tokens, or {stride, global: true}"});
  }
  static Hierarchical usual(int64_t b) { return {{{b, 4 * b}, {4 * b, 16 * b}, {16 * b, std::nullopt}}}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return ""; }
  std::optional<Lookback> lookback(int64_t) const { return {}; }  // levels that see all
};

// Of a document's tokens, query q sees key k iff q - left <= k <= q + right, or k is one of the first sink_tokens.
struct SlidingWindow {
  std::optional<int64_t> left;   // tokens, >= 0; unset: every earlier key
  std::optional<int64_t> right;  // tokens, >= 0; unset: every later key
  int64_t sink_tokens = 0;       // >= 0
  bool operator==(const SlidingWindow&) const = default;

  static constexpr const char* kName = "sliding_window";
  static constexpr int64_t kBlockSize = 1;
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("left", self.left, {"earlier tokens that a query sees; unset: all"});
    visit("right", self.right, {"later tokens that a query sees; unset: all"});
    visit("sink_tokens", self.sink_tokens, {"first tokens that all see", true});
  }
  static SlidingWindow usual(int64_t) { return {.left = 512, .right = 512}; }
  int64_t variant(int64_t, int64_t) const { return 0; }
  const char* needed_to_stay() const { return ""; }
  std::optional<Lookback> lookback(int64_t) const {
    return left ? std::optional(Lookback{.sinks = sink_tokens, .back = *left}) : std::nullopt;
  }
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

  static constexpr const char* kName = "list";
  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("blocks", self.blocks, {"list of [batch row or -1, KV head or -1, query block, key block]"});
  }
  // The planner knows better: it compares their blocks.
  int64_t variant(int64_t batch_row, int64_t kv_head) const { return batch_row << 32 | kv_head; }
  // It must fit into every sequence.
  const char* needed_to_stay() const { return "a rule in place of a list"; }
  std::optional<Lookback> lookback(int64_t) const { return {}; }
};

using BlockRule = std::variant<LocalWindow, DilatedSparse, GlobalLocal, Strided, Axial, RandomBlocks, Hierarchical,
                               SlidingWindow, BlockList>;

// The one block_size that a rule takes; none: it takes any.
template <class Rule>
constexpr std::optional<int64_t> fixed_block_size() {
  if constexpr (requires { Rule::kBlockSize; }) return Rule::kBlockSize;
  return std::nullopt;
}

// visit(Rule()) of every rule, in the order of BlockRule.
template <class Visit>
constexpr void for_each_rule(Visit&& visit) {
  const auto each = [&]<class... Rules>(std::type_identity<std::variant<Rules...>>) { (visit(Rules()), ...); };
  each(std::type_identity<BlockRule>());
}

class BlockPattern {
 public:
  // block_size in tokens, >= 1; of a rule in tokens it must be 1. Throws Error naming the argument.
  BlockPattern(int64_t block_size, BlockRule rule);

  int64_t block_size() const { return block_size_; }
  const BlockRule& rule() const { return rule_; }
  const char* name() const;
  const BlockList* list() const { return std::get_if<BlockList>(&rule_); }            // null if the rule is no list
  const SlidingWindow* window() const { return std::get_if<SlidingWindow>(&rule_); }  // null if the rule is none

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
