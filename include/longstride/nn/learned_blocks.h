// A block pattern that is learned: a scorer looks at the queries and keys of a call and chooses which blocks of them
// are computed. DilatedAttention has one if its options say so (nn/attention.h). How it learns: docs/block_sparse.md.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace longstride::nn {
struct Placement;
}

namespace longstride {

// The *density* of a choice is the share of block pairs that it computes; of those on and below the diagonal if causal.
struct LearnedBlocks {
  int64_t block_size = 64;  // tokens, >= 1
  double density = 0.1;     // in (0, 1): what every row is given, to the block; what density_loss pulls to
  // Bounds for the rows, in (0, 1), min_density < max_density, density between them. Unset: density itself. A row
  // always takes its best blocks up to min_density, and of the next ones up to max_density those that score above 0.
  std::optional<double> min_density, max_density;
  int64_t hidden = 32;       // width of a KV head's two perceptrons, >= 1
  double temperature = 1.0;  // >= 0: of the Gumbel noise on the scores while training; 0: none
  int64_t head_dim = 0;      // of q and k, >= 1; 0 in the options of a multihead module, which knows it
  int64_t kv_heads = 0;      // each has a scorer of its own, >= 1; 0 in the options of a multihead module

  void validate() const;  // throws Error
  bool operator==(const LearnedBlocks&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("block_size", self.block_size);
    visit("density", self.density);
    visit("min_density", self.min_density);
    visit("max_density", self.max_density);
    visit("hidden", self.hidden);
    visit("temperature", self.temperature);
    visit("head_dim", self.head_dim);
    visit("kv_heads", self.kv_heads);
  }
};

// What a scorer chose in one call.
struct BlockChoice {
  // int32 [rows, 4]: {batch row, KV head, query block, key block}, as attention() takes them. On q's GPU, where nothing
  // waits for how many were chosen: with bounds there are as many rows as max_density gives, and those that are not
  // needed are {0, 0, 0, 0}. Otherwise, and of a sequence that lies with several ranks, on the CPU.
  at::Tensor blocks;
  // [rows], on q's device: 1, with the gradient of the block's score (straight-through). The diagonal's have none: it
  // is there in any case.
  at::Tensor gates;
  at::Tensor scores;  // [batch, kv_heads, query blocks, key blocks], without noise; differentiable
  // Scalar: (mean of sigmoid(score), 1 on the diagonal, - density)^2. Add it, weighted, to the loss: it sets where the
  // scores' 0 lies, and with bounds how many blocks are taken. Of a sequence that lies with several ranks it is this
  // rank's equal part; the ranks' losses, and their gradients, are summed.
  at::Tensor density_loss;
};

// Scores every pair of blocks by two perceptrons a KV head, dim -> hidden (GELU) -> hidden, one for the mean of a
// block's queries and one for the mean of its keys, both divided by their root mean square on the way in and out: the
// product over sqrt(hidden), and a bias. If causal, the first query stands for its block: the mean would let later
// queries choose what earlier ones see. Query heads of one KV head are averaged. No gradient flows into q and k.
//
// Each row takes its best blocks, the diagonal always. While training, Gumbel noise of the given temperature is added
// to the scores first, so that blocks which are not among the best are tried too: lower it to 0 in the course of
// training.
class BlockScorerImpl : public torch::nn::Cloneable<BlockScorerImpl> {
 public:
  BlockScorerImpl(LearnedBlocks options, bool causal);
  void reset() override;  // parameters from torch's generator
  void pretty_print(std::ostream& stream) const override;

  // q [batch, len, heads, head_dim], k [batch, len, kv_heads, head_dim] of one len; lengths: one per batch row, rows of
  // blocks beyond them choose and are chosen by none. Which blocks are chosen is read to the host once;
  // on a GPU nothing waits for it once a call of the same lengths was there. Throws Error
  // where shapes do not fit, or the diagonal alone is denser than `density`.
  BlockChoice forward(const at::Tensor& q, const at::Tensor& k,
                      const std::optional<std::vector<int64_t>>& lengths = std::nullopt) const;
  // Of a sequence that lies with several ranks, cut at `boundaries`: q and k are this one's shard, lengths those of the
  // whole. Each rank has all scores; the first one draws and chooses for all. Called by placed modules.
  BlockChoice over_ranks(const nn::Placement&, const at::Tensor& q, const at::Tensor& k,
                         const std::optional<std::vector<int64_t>>& lengths,
                         const std::vector<int64_t>& boundaries) const;

  void set_temperature(double temperature);  // throws Error if negative; options keep what the module was built with

  LearnedBlocks options;
  bool causal;
  at::Tensor query_in, query_out, key_in, key_out;  // [kv_heads, head_dim or hidden, hidden]
  at::Tensor bias;                                  // [kv_heads, 1, 1]

 private:
  double noise() const { return is_training() ? temperature_ : 0; }
  double temperature_;
};
TORCH_MODULE(BlockScorer);

}  // namespace longstride
