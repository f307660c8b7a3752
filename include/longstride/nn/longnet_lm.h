// LongNetLM: a decoder-only language model over dilated attention (LongNet, Ding et al. 2023), with MAGNETO layers.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/nn/layer.h"

namespace longstride {

struct LongNetLMConfig {
  int64_t vocab = 256;  // bytes
  int64_t dim = 256;
  int64_t layers = 4;
  int64_t heads = 8;
  int64_t kv_heads = 0;         // 0: heads
  int64_t dim_feedforward = 0;  // 0: 4 * dim
  std::vector<int64_t> segment_lengths = {2048, 4096, 8192, 16384, 32768};
  std::vector<int64_t> dilation_rates = {1, 2, 4, 6, 12};
  HeadOffset head_offset = HeadOffset::kModulo;
  Mixing mixing = Mixing::kJoint;
  // In the same softmax as the groups, or alone when both lists of groups are empty (DilatedAttentionOptions). A rule
  // whose blocks change as the sequence grows is refused: a prefix's logits would depend on how much follows.
  std::vector<BlockPattern> blocks;
  Positions positions = Positions::kRope;
  double rope_base = 10000.0;
  double xpos_scale_base = 0;  // 0: max(512, max_len / 32)
  int64_t max_len = 1 << 20;   // longer input is refused
  double dropout = 0.0;
  double attention_dropout = 0.0;
  std::string activation = "gelu";
  bool fused_qkv = true;
  bool qk_norm = false;
  bool tied_head = false;  // the head shares the embedding's weights
  double layer_norm_eps = 1e-5;
  double gamma_init = 0;  // 0: sqrt(ln(2 * layers)), MAGNETO's value for a decoder
  bool activation_checkpointing = false;

  double gamma() const;  // gamma_init, or its default
  int64_t feedforward() const { return dim_feedforward == 0 ? 4 * dim : dim_feedforward; }
  TransformerLayerOptions layer() const;  // what every layer is built from
  void validate() const;                  // throws Error
  std::string to_json() const;            // every field
  // Missing fields take their defaults; an unknown one, or one of a wrong type, is an Error. The result is validated.
  static LongNetLMConfig from_json(std::string_view text);
  bool operator==(const LongNetLMConfig&) const = default;
};

struct LongNetLMCall {
  std::optional<std::vector<int64_t>> cu_seqlens;  // packed documents: 0 = c0 <= c1 <= ... = len
  std::optional<std::vector<int64_t>> lengths;     // one per batch row
  bool deterministic = false;
};

// The caches of all layers: what decoding carries from step to step.
struct DecodeState {
  std::vector<KeyValueCache> layers;
  int64_t length = 0;    // tokens seen
  int64_t capacity = 0;  // tokens that fit
};

class LongNetLMImpl : public torch::nn::Cloneable<LongNetLMImpl> {
 public:
  static constexpr const char* kModelName = "LongNetLM";  // in the config.json of a saved one
  static constexpr int64_t kIgnored = -100;               // a target that counts for nothing

  explicit LongNetLMImpl(LongNetLMConfig config, AttentionFn attend = {});  // validates
  void reset() override;
  void reset_parameters();

  // tokens [batch, len] int64 in [0, vocab) -> logits [batch, len, vocab]. Logits of a prefix never depend on what
  // follows it.
  at::Tensor forward(const at::Tensor& tokens, const LongNetLMCall& call = {});
  // -ln p(targets[b, i] | tokens[b, 0..i]), [batch, len] float32 (float64 for a float64 model), 0 where the target is
  // kIgnored. Computed over chunks of positions that are run again in the backward, so that logits of all positions
  // never exist at once.
  at::Tensor token_losses(const at::Tensor& tokens, const at::Tensor& targets, const LongNetLMCall& call = {});
  // Mean of token_losses over the targets that count, in nats; a scalar.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, const LongNetLMCall& call = {});

  // Decoding, in eval mode: caches for `capacity` tokens (<= max_len), and one step, which appends tokens [batch, n]
  // and returns the logits [batch, vocab] behind the last. Equal to forward() on all tokens so far.
  DecodeState start_decoding(int64_t batch, int64_t capacity) const;
  at::Tensor decode(const at::Tensor& tokens, DecodeState& state);

  LongNetLMConfig config;  // activation_checkpointing may be switched at any time; the rest is fixed by construction
  torch::nn::Embedding embedding{nullptr};
  torch::nn::Dropout dropout{nullptr};
  torch::nn::ModuleList layers{nullptr};
  torch::nn::LayerNorm final_norm{nullptr};
  torch::nn::Linear head{nullptr};  // none if tied

 private:
  void reset_own_parameters();
  at::Tensor embed(const at::Tensor& tokens);
  RotaryFactors factors(const at::Tensor& x, int64_t position0) const;
  at::Tensor hidden(const at::Tensor& tokens, const LongNetLMCall& call);
  at::Tensor project_to_vocab(const at::Tensor& hidden) const;

  AttentionFn attend_;
};
TORCH_MODULE(LongNetLM);

}  // namespace longstride
