// DilatedAttention and MultiheadDilatedAttention. Modules hold an AttentionFn value and where their sequences lie
// (nn/placement.h), so that attention over one process or over many ranks is the same module. They keep no cache:
// clone() shares nothing but a group of ranks, and forward() may be called from several threads at once.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "longstride/attention.h"
#include "longstride/nn/learned_blocks.h"
#include "longstride/nn/positions.h"
#include "longstride/pattern/flat.h"
#include "longstride/pattern/retention.h"

namespace longstride {

namespace nn {
struct Placement;
}

// What computes attention for a module: q, k, v [batch, len, heads, dim] and the options of one call.
using AttentionFn =
    std::function<AttentionResult(const at::Tensor&, const at::Tensor&, const at::Tensor&, const AttentionOptions&)>;

// longstride::attention of this process with the given pattern.
AttentionFn local_attention(Pattern pattern);

struct DilatedAttentionOptions {
  Pattern pattern;                      // who sees whom; in JSON its fields are flat, as in pattern/flat.h
  std::optional<double> softmax_scale;  // unset: 1 / sqrt(dim)
  double attention_dropout = 0.0;       // in [0, 1), while training
  // Blocks that a scorer chooses, alone or beside the pattern's groups, in the same softmax; the pattern has no blocks
  // then.
  std::optional<LearnedBlocks> learned;

  bool draws_random() const { return attention_dropout > 0; }  // while training
  Pattern whole_pattern() const;  // `pattern`, and the learned blocks as an empty list of blocks
  void validate() const;          // throws Error
  // Every field by name, and back: missing fields have their defaults, an unknown one (named with the nearest), or one
  // of a wrong type, is an Error. The result is validated. The same holds for every to_json() and from_json() here.
  std::string to_json() const;
  static DilatedAttentionOptions from_json(std::string_view text);
  bool operator==(const DilatedAttentionOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit_pattern(self.pattern, visit);
    visit("softmax_scale", self.softmax_scale);
    visit("attention_dropout", self.attention_dropout);
    visit("learned", self.learned);
  }
};

// q [batch, len, heads, dim], k and v [batch, len, kv_heads, dim] -> {out, lse}; see longstride/attention.h. Scale and
// dropout are the module's: a call that brings its own is refused. In training mode a dropout seed is drawn from
// torch's generator. Warns once a process if dim is not a multiple of 8 or above 128 (a slower path).
//
// With learned blocks it has a scorer, whose parameters are the module's. Each call chooses by it and gives the choice
// to `choice`, if given; q and k have equal lengths (no query_start), batch rows may be shorter (`lengths`), packed
// documents are refused, and there is no AttentionFn.
//
// Its sequences lie with this process, or with the ranks of a group: place() of nn/placement.h.
class DilatedAttentionImpl : public torch::nn::Cloneable<DilatedAttentionImpl> {
 public:
  static constexpr const char* kModelName = "DilatedAttention";  // in the config.json of a saved one
  explicit DilatedAttentionImpl(DilatedAttentionOptions options, AttentionFn attend = {});  // empty: local_attention
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  AttentionResult forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, AttentionOptions call = {},
                          BlockChoice* choice = nullptr) const;

  // Where its sequences lie, if with several ranks; null: with this process.
  const nn::Placement* placement() const { return placement_.get(); }

  DilatedAttentionOptions options;
  BlockScorer scorer{nullptr};  // empty without learned blocks

 private:
  friend struct nn::Placement;
  BlockChoice choose_blocks(const at::Tensor& q, const at::Tensor& k, const AttentionOptions& call) const;
  AttentionFn attend_;                              // empty: longstride::attention
  std::shared_ptr<const nn::Placement> placement_;  // a copy shares it, with the group
};
TORCH_MODULE(DilatedAttention);

// Keys and values of the positions so far, for decoding: preallocated, so that a step copies only its own rows. Keys
// that no later query sees (pattern/retention.h) are dropped now and then, so that under windows or segments the rows
// stay few however long a sequence becomes. What is left then moves to tensors of its own: a copy that was made of the
// cache before stays what it was.
struct KeyValueCache {
  at::Tensor k;          // [batch, rows, kv_heads, dim], positions already applied
  at::Tensor v;          // [batch, rows, kv_heads, dim]
  int64_t length = 0;    // positions so far; rows [0, length - dropped) are filled
  int64_t dropped = 0;   // of these, behind the sinks
  int64_t capacity = 0;  // positions that fit
};

struct MultiheadDilatedAttentionOptions {
  int64_t embed_dim = 0;
  int64_t num_heads = 0;
  int64_t kv_heads = 0;  // 0: num_heads; divides num_heads
  DilatedAttentionOptions attention;
  bool fused_qkv = true;  // one q/k/v projection, or three; load_weights() takes either from either
  bool bias = true;
  bool sub_layer_norm = false;  // LayerNorm before the output projection (MAGNETO)
  bool qk_norm = false;         // LayerNorm over each head of q and of k, before positions
  bool sinks = false;           // a learned logit of each head, at first 0: every query sees one key more, of value 0
  double layer_norm_eps = 1e-5;
  double gamma_init = 1.0;  // Xavier gain of the value and output projections; q and k have gain 1
  PositionOptions positions;

  int64_t head_dim() const { return embed_dim / num_heads; }
  int64_t key_value_heads() const { return kv_heads == 0 ? num_heads : kv_heads; }
  DilatedAttentionOptions inner_attention() const;  // `attention`, with the sizes of its learned blocks filled in
  void validate() const;                            // throws Error
  std::string to_json() const;                      // flat: the fields of `attention` and `positions` beside the others
  static MultiheadDilatedAttentionOptions from_json(std::string_view text);
  bool operator==(const MultiheadDilatedAttentionOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("embed_dim", self.embed_dim);
    visit("num_heads", self.num_heads);
    visit("kv_heads", self.kv_heads);
    DilatedAttentionOptions::fields(self.attention, visit);
    visit("fused_qkv", self.fused_qkv);
    visit("bias", self.bias);
    visit("sub_layer_norm", self.sub_layer_norm);
    visit("qk_norm", self.qk_norm);
    visit("sinks", self.sinks);
    visit("layer_norm_eps", self.layer_norm_eps);
    visit("gamma_init", self.gamma_init);
    PositionOptions::fields(self.positions, visit);
  }
};

// What one call of MultiheadDilatedAttention may add.
struct MultiheadCall : CallOptions {
  // bool [batch, len], true where a key is padding. Only padding at the end of rows is supported (it becomes lengths);
  // any other mask is an error that says so.
  std::optional<at::Tensor> key_padding_mask;
  int64_t position0 = 0;           // global position of row 0 (a shard of a longer sequence)
  KeyValueCache* cache = nullptr;  // decoding: rows are appended behind cache->length, whose positions they see too
  const RotaryFactors* rotary = nullptr;  // factors of exactly these rows, when a caller has them already
  bool need_lse = false;
  BlockChoice* choice = nullptr;  // with learned blocks: receives what was chosen, with density_loss
};

// Multi-head attention. forward(): self-attention of x [batch, len, embed_dim] -> (output [batch, len, embed_dim], lse
// [batch, heads, len] if need_lse, else nothing). forward_cross(): query, key and value of equal shapes.
// Decoding with a cache needs a module without active dropout and grad mode off.
class MultiheadDilatedAttentionImpl : public torch::nn::Cloneable<MultiheadDilatedAttentionImpl> {
 public:
  static constexpr const char* kModelName = "MultiheadDilatedAttention";  // in the config.json of a saved one
  explicit MultiheadDilatedAttentionImpl(MultiheadDilatedAttentionOptions options, AttentionFn attend = {});
  void reset() override;
  void reset_parameters();  // MAGNETO initialisation from torch's generator; biases are 0
  void pretty_print(std::ostream& stream) const override;

  std::pair<at::Tensor, std::optional<at::Tensor>> forward(const at::Tensor& x, const MultiheadCall& call = {});
  // The name differs, because torch's holders call modules whose forward() is not overloaded.
  std::pair<at::Tensor, std::optional<at::Tensor>> forward_cross(const at::Tensor& query, const at::Tensor& key,
                                                                 const at::Tensor& value,
                                                                 const MultiheadCall& call = {});
  // An empty cache for `capacity` positions of this module's keys and values. It drops keys unless `attend` was given,
  // whose pattern is not known, or positions are alibi and there are sinks, whose distance must stay.
  KeyValueCache make_cache(int64_t batch, int64_t capacity) const;

  MultiheadDilatedAttentionOptions options;
  torch::nn::Linear qkv_proj{nullptr};  // fused: rows of q, then k, then v
  torch::nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr};
  torch::nn::LayerNorm q_norm{nullptr}, k_norm{nullptr}, inner_norm{nullptr};
  at::Tensor sinks;  // [num_heads]; undefined without them
  torch::nn::Linear out_proj{nullptr};
  DilatedAttention attention{nullptr};

 private:
  struct Projected {
    at::Tensor q, k, v;
  };
  Projected project(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value);

  AttentionFn attend_;
  std::optional<Retention> retention_;  // of its caches; none: they keep all
};
TORCH_MODULE(MultiheadDilatedAttention);

}  // namespace longstride
