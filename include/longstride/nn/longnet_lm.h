// LongNetLM: a decoder-only language model over dilated attention (LongNet, Ding et al. 2023), with MAGNETO layers.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/fields.h"
#include "longstride/nn/layer.h"

namespace longstride {

struct LongNetLMConfig {
  int64_t vocab = 256;  // bytes
  int64_t layers = 4;
  // What every layer is built from; by default 256 wide, 8 heads, gelu, RoPE, no dropout, causal segments 2048 to 32768
  // at rates 1, 2, 4, 6, 12. Here dim_feedforward 0 (the default) is 4 times the width, and gamma_init 0 (the default)
  // is MAGNETO's value for a decoder, sqrt(ln(2 * layers)). Longer input than its max_len is refused. The pattern must
  // be causal; a rule of blocks that changes as the sequence grows is refused, since a prefix's logits would depend on
  // how much follows, and so are learned blocks.
  TransformerLayerOptions layer;
  bool tied_head = false;  // the head shares the embedding's weights
  bool activation_checkpointing = false;

  LongNetLMConfig();
  TransformerLayerOptions whole_layer() const;  // `layer` with its zeros filled in
  void validate() const;                        // throws Error
  // Every field, the width as "dim", the heads as "heads".
  std::string to_json() const;
  // Missing fields take their defaults; an unknown one, or one of a wrong type, is an Error. The result is validated.
  static LongNetLMConfig from_json(std::string_view text);
  bool operator==(const LongNetLMConfig&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    static constexpr std::array<FieldName, 4> kNames = {
        {{"embed_dim", "dim"}, {"num_heads", "heads"}, {"causal", nullptr}, {"learned", nullptr}}};
    visit("vocab", self.vocab);
    visit("layers", self.layers);
    TransformerLayerOptions::fields(self.layer, under_names(kNames, visit));
    visit("tied_head", self.tied_head);
    visit("activation_checkpointing", self.activation_checkpointing);
  }
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
  at::Tensor forward(const at::Tensor& tokens, const CallOptions& call = {});
  // -ln p(targets[b, i] | tokens[b, 0..i]), [batch, len] float32 (float64 for a float64 model), 0 where the target is
  // kIgnored. Computed over chunks of positions that are run again in the backward, so that logits of all positions
  // never exist at once.
  at::Tensor token_losses(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call = {});
  // Mean of token_losses over the targets that count, in nats; a scalar. Where the sequence lies with several ranks
  // (nn/placement.h): this rank's part of the mean over all of them, which is the ranks' sum; what is wrong with one
  // rank's tokens or targets is an Error on all.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call = {});

  // Decoding, in eval mode: caches for `capacity` tokens (<= max_len), and one step, which appends tokens [batch, n]
  // and returns the logits [batch, vocab] behind the last. Equal to forward() on all tokens so far. The caches drop
  // what no later token sees (KeyValueCache); a state may go back by setting its length, unless that was dropped.
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
  const nn::Placement* placement() const;
  void check_tokens(const at::Tensor& tokens, const CallOptions& call) const;
  void check_pair(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call) const;
  at::Tensor embed(const at::Tensor& tokens);
  RotaryFactors factors(const at::Tensor& x, int64_t position0, const CallOptions& call) const;
  at::Tensor hidden(const at::Tensor& tokens, const CallOptions& call);
  at::Tensor project_to_vocab(const at::Tensor& hidden) const;

  AttentionFn attend_;
};
TORCH_MODULE(LongNetLM);

}  // namespace longstride
