// What attends to what. A Pattern is a value, checked once when it is made; it meets the lengths of a call in an
// Extent. Semantics: docs/semantics.md. Torch-free.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "longstride/pattern/blocks.h"

namespace longstride {

// One dilated group: positions are cut into segments of `segment` tokens, and every `rate`-th token of a segment is
// sampled. Both >= 1, in tokens.
struct Group {
  int64_t segment = 0;
  int64_t rate = 1;
  bool operator==(const Group&) const = default;
};

// Which residue of a segment a KV head samples: a rule, or the table in DilatedOptions::offsets.
enum class HeadOffset {
  kModulo,  // j mod r: LongNet's paper, the default
  kBlock,   // floor(j / ceil(kv_heads / r)): torchscale
  kGroup,   // g mod r for every head: fkodom's library and its fork
};

enum class Mixing {
  kJoint,          // every head runs every group, one softmax over their union with multiplicities
  kHeadPartition,  // the KV heads are cut into one contiguous range per group
};

enum class Padding {
  kMasked,    // padding does not exist
  kZeroKeys,  // torchscale's pretrained models: phantom keys of logit 0 and value 0 in short segments
};

struct DilatedOptions {
  bool causal = false;
  HeadOffset head_offset = HeadOffset::kModulo;
  // Explicit offsets, groups x kv_heads row by row, in place of the named rule. Any integer >= 0; taken mod the rate.
  std::optional<std::vector<int64_t>> offsets;
  Mixing mixing = Mixing::kJoint;
  bool average = false;  // kHeadPartition only: out is divided by the number of groups; lse is not touched
  Padding padding = Padding::kMasked;
  bool operator==(const DilatedOptions&) const = default;
};

class Pattern {
 public:
  // Shows nothing, until it is given groups or blocks: the default of options. attention() refuses it.
  Pattern() = default;

  // Throws Error if a list is empty, the lists differ in length, a number is not positive, an offset is negative, or
  // `average` is asked for without kHeadPartition.
  static Pattern dilated(const std::vector<int64_t>& segment_lengths, const std::vector<int64_t>& dilation_rates,
                         const DilatedOptions& options = {});

  // Block patterns alone: their union, in which a pair counts once. Throws Error if there is none.
  static Pattern block_sparse(const std::vector<BlockPattern>& blocks, bool causal = false);

  // This pattern and, in the same softmax, the union of these and the block patterns that it has: a pair counts once
  // for every group that shows it, and once more if a block pattern does. Every head runs the block patterns, whatever
  // the mixing.
  Pattern with_blocks(const std::vector<BlockPattern>& blocks) const;

  // This pattern with `causal` as given.
  Pattern with_causal(bool causal) const;

  const std::vector<Group>& groups() const { return groups_; }         // may be empty beside block patterns
  const std::vector<BlockPattern>& blocks() const { return blocks_; }  // may be empty beside groups
  const DilatedOptions& options() const { return options_; }           // of the groups; causal is for all
  bool causal() const { return options_.causal; }
  bool empty() const { return groups_.empty() && blocks_.empty(); }
  // What out is multiplied with after the softmax: 1, or 1 / groups under `average`.
  double out_scale() const;

  // The offset of group g for KV head j of kv_heads, already mod the rate. Throws if an explicit table does not have
  // groups x kv_heads entries.
  int64_t offset(int64_t g, int64_t kv_head, int64_t kv_heads) const;
  // Whether KV head j of kv_heads runs group g (always under kJoint).
  bool runs(int64_t g, int64_t kv_head, int64_t kv_heads) const;

  bool operator==(const Pattern&) const = default;

 private:
  std::vector<Group> groups_;
  DilatedOptions options_;
  std::vector<BlockPattern> blocks_;
};

HeadOffset head_offset_from_name(
    const std::string& name);                        // "modulo" | "block" | "group"; throws Error with the nearest
Mixing mixing_from_name(const std::string& name);    // "joint" | "head_partition"
Padding padding_from_name(const std::string& name);  // "masked" | "zero_keys"
const char* name(HeadOffset);
const char* name(Mixing);
const char* name(Padding);

// The lengths of one call, in tokens. validate() throws Error naming the argument.
struct Extent {
  int64_t batch = 1;
  int64_t heads = 1;
  int64_t kv_heads = 1;  // divides heads; query head h reads KV head h / (heads / kv_heads)
  int64_t len_q = 0;
  int64_t len_k = 0;
  int64_t query_start = 0;          // query i stands at position query_start + i of the len_k positions
  std::vector<int64_t> cu_seqlens;  // empty, or 0 = c0 <= c1 <= ... = len_k: packed documents, the same for every row
  std::vector<int64_t> lengths;     // empty, or one per batch row: row b is one document [0, lengths[b])
  void validate() const;
  bool operator==(const Extent&) const = default;
};

}  // namespace longstride
