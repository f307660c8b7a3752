// The blocks of a transformer over dilated attention: feed-forward and a pre-LN layer with sub-LN (MAGNETO, Wang et al.
// 2022), and activation checkpointing.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/linear.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/nn/attention.h"

namespace longstride {

using Activation = at::Tensor (*)(const at::Tensor&);
Activation activation_from_name(const std::string& name);  // throws Error with the list and the nearest
const std::vector<std::string>& activation_names();        // relu, gelu, gelu_tanh, silu, swish, tanh

struct FeedForwardOptions {
  int64_t dim = 0;
  int64_t hidden = 0;
  std::string activation = "relu";
  double dropout = 0.0;        // after the activation, in [0, 1), while training
  bool sub_layer_norm = true;  // LayerNorm between the two projections
  double layer_norm_eps = 1e-5;
  double gamma_init = 1.0;  // Xavier gain of both projections
  void validate() const;    // throws Error
  std::string to_json() const;
  static FeedForwardOptions from_json(std::string_view text);
  bool operator==(const FeedForwardOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit("dim", self.dim);
    visit("hidden", self.hidden);
    visit("activation", self.activation);
    visit("dropout", self.dropout);
    visit("sub_layer_norm", self.sub_layer_norm);
    visit("layer_norm_eps", self.layer_norm_eps);
    visit("gamma_init", self.gamma_init);
  }
};

// [..., dim] -> [..., dim]
class FeedForwardImpl : public torch::nn::Cloneable<FeedForwardImpl> {
 public:
  static constexpr const char* kModelName = "FeedForward";  // in the config.json of a saved one
  explicit FeedForwardImpl(FeedForwardOptions options);
  void reset() override;
  void reset_parameters();
  at::Tensor forward(const at::Tensor& x);

  FeedForwardOptions options;
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
  torch::nn::LayerNorm inner_norm{nullptr};
  torch::nn::Dropout dropout{nullptr};
};
TORCH_MODULE(FeedForward);

struct TransformerLayerOptions {
  // embed_dim is the layer's width. sub_layer_norm, layer_norm_eps and gamma_init are those of the whole layer: norms
  // and feed-forward have them too. sub_layer_norm is true by default, but only here: whoever assigns other options
  // whole assigns theirs.
  MultiheadDilatedAttentionOptions attention;
  int64_t dim_feedforward = 2048;
  double dropout = 0.1;  // on both residual branches and after the activation
  std::string activation = "relu";

  TransformerLayerOptions() { attention.sub_layer_norm = true; }
  FeedForwardOptions feed_forward() const;
  bool draws_random() const { return dropout > 0 || attention.attention.draws_random(); }  // while training
  void validate() const;                                                                   // throws Error
  std::string to_json() const;  // flat: the fields of `attention` beside the layer's own
  static TransformerLayerOptions from_json(std::string_view text);
  bool operator==(const TransformerLayerOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    MultiheadDilatedAttentionOptions::fields(self.attention, visit);
    visit("dim_feedforward", self.dim_feedforward);
    visit("dropout", self.dropout);
    visit("activation", self.activation);
  }
};

// x + dropout(attention(norm(x))), then x + dropout(feed_forward(norm(x))). x [batch, len, dim].
class TransformerLayerImpl : public torch::nn::Cloneable<TransformerLayerImpl> {
 public:
  static constexpr const char* kModelName = "TransformerLayer";  // in the config.json of a saved one
  explicit TransformerLayerImpl(TransformerLayerOptions options, AttentionFn attend = {});
  void reset() override;
  void reset_parameters();
  at::Tensor forward(const at::Tensor& x, const MultiheadCall& call = {});

  TransformerLayerOptions options;
  torch::nn::LayerNorm attention_norm{nullptr}, feed_forward_norm{nullptr};
  MultiheadDilatedAttention attention{nullptr};
  FeedForward feed_forward{nullptr};
  torch::nn::Dropout dropout{nullptr};

 private:
  AttentionFn attend_;
};
TORCH_MODULE(TransformerLayer);

// function(x), keeping only x for the backward, which runs `function` again: the same value, the same gradients of x
// and of `parameters` (all that the function reads and that want gradients), to the bit. With draws_random the state of
// torch's generator of x's device is kept and put back for the second run, so that dropout repeats; autocast is
// repeated as well. Without grad mode this is function(x).
at::Tensor checkpoint(std::function<at::Tensor(const at::Tensor&)> function, const at::Tensor& x,
                      std::vector<at::Tensor> parameters, bool draws_random);

}  // namespace longstride
