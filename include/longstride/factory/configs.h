// Configs as values: checked by validate(), written and read as flat JSON, never changed by what they are passed to.
// from_json() takes defaults for missing keys and refuses unknown ones with the nearest name. LongNetConfig is in
// nn/longnet.h.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/nn/attention.h"
#include "longstride/nn/longnet.h"
#include "longstride/pattern/blocks.h"

namespace longstride {

using DilatedAttentionConfig = DilatedAttentionOptions;
using MultiheadConfig = MultiheadDilatedAttentionOptions;

// Where attention runs: over how many ranks a sequence lies, each of which has a shard of it (docs/parallel.md).
struct RingAttentionConfig {
  // A process group by its name in c10d's registry; "none": this process by itself. Unset: the default group if one is
  // initialised, else this process by itself.
  std::optional<std::string> group;
  // The ranks that share a sequence; unset: all of the group's. >= 1; must divide the ranks. The group is cut into
  // rings of so many consecutive ranks, each with sequences of its own (ring_of() of rings.h).
  std::optional<int64_t> ring_size;

  void validate() const;  // throws Error; what needs the group is checked by ranks_of()
  std::string to_json() const;
  static RingAttentionConfig from_json(std::string_view text);
  bool operator==(const RingAttentionConfig&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("group", self.group);
    visit("ring_size", self.ring_size);
  }
};

// RingAttentionConfig, and what the group must be: what a job is started with, checked where it runs.
struct DistributedConfig {
  std::optional<std::string> group;    // as in RingAttentionConfig
  std::optional<int64_t> ring_size;    // as in RingAttentionConfig
  std::optional<int64_t> world_size;   // ranks that the group must have; >= 1
  std::optional<int64_t> rank;         // that this process must have; in [0, world_size)
  std::optional<std::string> backend;  // of the group: "gloo", "nccl" or "mpi"; must be unset without a group

  RingAttentionConfig ring() const { return {group, ring_size}; }
  void validate() const;  // throws Error, among it if ring_size is above world_size or does not divide it
  std::string to_json() const;
  static DistributedConfig from_json(std::string_view text);
  bool operator==(const DistributedConfig&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    RingAttentionConfig::fields(self, visit);
    visit("world_size", self.world_size);
    visit("rank", self.rank);
    visit("backend", self.backend);
  }
};

// The ranks of the group that a config names: 1 without a group. Throws Error if the group cannot be found, has other
// ranks, another rank or backend than the config says, or ring_size does not divide its ranks (both numbers are named).
int64_t ranks_of(const RingAttentionConfig&);
int64_t ranks_of(const DistributedConfig&);

// Bounds of a memory pool: the options of UnifiedMemoryPool, under its names and with its defaults.
struct MemoryPoolConfig {
  int64_t most_cached_bytes = int64_t{256} << 20;                 // idle memory that is kept; > 0
  int64_t most_live_bytes = std::numeric_limits<int64_t>::max();  // that may be leased at a time; > 0

  void validate() const;  // throws Error
  std::string to_json() const;
  static MemoryPoolConfig from_json(std::string_view text);
  bool operator==(const MemoryPoolConfig&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("most_cached_bytes", self.most_cached_bytes);
    visit("most_live_bytes", self.most_live_bytes);
  }
};

// A block-sparse pattern by name. Only the options that the pattern takes may be set; docs/factory.md has the table.
struct SparseAttentionConfig {
  std::string pattern = "dilated_sparse";             // a rule that has usual() (blocks.h), "hybrid", or "learned"
  std::optional<int64_t> block_size;                  // tokens, >= 1; unset: 128, of sliding_window 1
  std::optional<double> sparsity_ratio;               // share of block pairs left out, in (0, 1)
  std::optional<double> density;                      // 1 - sparsity_ratio; give one of the two
  std::optional<int64_t> window;                      // local_window, global_local: tokens
  std::optional<std::vector<int64_t>> rates;          // dilated_sparse: distances in blocks
  std::optional<int64_t> reach;                       // dilated_sparse: distances kept on each side
  std::optional<int64_t> global_tokens;               // global_local
  std::optional<int64_t> stride_blocks;               // strided
  std::optional<int64_t> grid_columns;                // axial
  std::optional<int64_t> seed;                        // random
  std::optional<std::vector<HierarchyLevel>> levels;  // hierarchical
  std::optional<int64_t> left, right;                 // sliding_window: tokens; one given, the other is unbounded
  std::optional<int64_t> sink_tokens;                 // sliding_window
  std::vector<BlockPattern> blocks;                   // hybrid: the patterns that are united
  // learned: bounds for the rows, in (0, 1), min below max, sparsity_ratio between them; unset: sparsity_ratio
  std::optional<double> min_sparsity_ratio, max_sparsity_ratio;
  std::optional<int64_t> hidden;      // learned: width of the scorer, >= 1
  std::optional<double> temperature;  // learned: of the noise while training, >= 0

  // What these options say. Where a pattern needs an option that is not given: sparsity_ratio 0.9, window 512,
  // global_tokens 64, stride_blocks 4, levels {b, window 4b}, {4b, window 16b}, {16b, everything} for block_size b,
  // left and right 512.
  std::vector<BlockPattern> block_patterns() const;  // none for "learned"
  // The same for "learned", nothing for the others. head_dim and kv_heads are left to the module.
  std::optional<LearnedBlocks> learned_blocks() const;
  void validate() const;  // throws Error
  std::string to_json() const;
  static SparseAttentionConfig from_json(std::string_view text);
  bool operator==(const SparseAttentionConfig&) const = default;

  template <class Self, class Visit>
  static constexpr void fields(Self& self, Visit&& visit) {
    visit("pattern", self.pattern);
    visit("block_size", self.block_size);
    visit("sparsity_ratio", self.sparsity_ratio);
    visit("density", self.density);
    visit("window", self.window);
    visit("rates", self.rates);
    visit("reach", self.reach);
    visit("global_tokens", self.global_tokens);
    visit("stride_blocks", self.stride_blocks);
    visit("grid_columns", self.grid_columns);
    visit("seed", self.seed);
    visit("levels", self.levels);
    visit("left", self.left);
    visit("right", self.right);
    visit("sink_tokens", self.sink_tokens);
    visit("blocks", self.blocks);
    visit("min_sparsity_ratio", self.min_sparsity_ratio);
    visit("max_sparsity_ratio", self.max_sparsity_ratio);
    visit("hidden", self.hidden);
    visit("temperature", self.temperature);
  }
};

}  // namespace longstride
