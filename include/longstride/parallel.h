// One sequence over many ranks: attention in which every process holds a shard of it and gets the keys that it needs,
// over a process group of LibTorch (c10d), of tensors that it moves. docs/parallel.md says what travels, and when.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <vector>

#include "longstride/attention.h"

namespace longstride {

// Empty: this process by itself.
using RankGroup = c10::intrusive_ptr<c10d::ProcessGroup>;

// Which tokens each rank holds.
struct Sharding {
  // {0, len}: cut evenly, the first shards one token longer; or the positions at which contiguous shards begin and end,
  // one more than there are ranks. Empty: all shards have as many rows as this one.
  std::vector<int64_t> boundaries;
  // "contiguous": rank i holds the i-th interval; "zigzag": i and 2 ranks - 1 - i of 2 ranks, which under a causal mask
  // leaves all ranks as much to do.
  std::string layout = "contiguous";
};

// Options of attention(), of the whole sequence, alike on every rank; an Error where query_start is set. alibi_slopes
// are those of all ranks' heads, on the CPU, the same values on every rank. Of the dropout seeds that ranks give, which
// may differ, the first rank's is taken: a pair is dropped or kept as in one process of that seed. Of gates, which are
// those of all blocks, a rank gives the gradient that its heads have a part in: sum it over the group, as those of
// weights. With slopes, dropout or gates all ranks divide the heads, exchange "heads(ranks)": others give a rank rows
// of which its engine knows no distance.
struct ShardedOptions : AttentionOptions {
  Sharding sharding;
  // How rows travel. "direct": all that a rank needs at once; "ring": from one rank at a time; "heads(u)": u
  // neighbouring ranks divide the heads; "none": an Error if any would travel; "auto": none or direct, with
  // slopes, dropout or gates heads of all.
  std::string exchange = "auto";
};

// An exchange has failed: a rank has ended, is late or has called something else. The group cannot be used again.
class CommError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// attention() over a sequence of which every rank holds a shard: its rows of out and lse, exactly. q, k, v are
// [batch, rows, heads, dim]. All ranks of the group call it alike, in one order, and so does their backward, whose
// gradients are those of the sum of the ranks' losses. They compare every call before a row travels, at a wait for all:
// what is wrong with one rank's call, or differs, is an Error on every rank. Throws CommError.
AttentionResult cp_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pattern& pattern,
                             const RankGroup& group, const ShardedOptions& options = {});

// Where this rank's tokens stand in the sequence, int64 [rows]: what rotary embeddings and labels go by. `sharding` has
// boundaries. Throws Error.
at::Tensor shard_positions(const RankGroup& group, const Sharding& sharding);
// This rank's tokens of a tensor of the whole sequence, differentiable; nothing is sent. Without boundaries it is cut
// evenly. Throws Error.
at::Tensor shard(const at::Tensor& x, const RankGroup& group, const Sharding& sharding = {}, int64_t dim = 1);
// The whole sequence of all ranks' shards, on every rank. Differentiable: the gradient of a shard is the sum of what
// all ranks give for it, in float32 (float64 of float64) and in the order of ranks. Throws Error, CommError.
at::Tensor unshard(const at::Tensor& x, const RankGroup& group, const Sharding& sharding = {}, int64_t dim = 1);

}  // namespace longstride
