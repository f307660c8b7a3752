// The layers that users of dilated-attention-pytorch know as DilatedTransformerEncoderLayer and
// DilatedTransformerDecoderLayer: pre-LN, with sub-LN in attention and feed-forward (MAGNETO, Wang et al. 2022). The
// encoder layer is TransformerLayer; a decoder layer has cross-attention besides.
#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/modules/dropout.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "longstride/nn/layer.h"

namespace longstride {

struct DecoderLayerOptions {
  TransformerLayerOptions layer;  // of all parts; its pattern's `causal` is that of self-attention
  bool memory_causal = false;     // of cross-attention: row i sees rows of the memory up to i
  // What cross-attention is built from: the layer's attention, with memory_causal.
  MultiheadDilatedAttentionOptions memory_attention() const;
  void validate() const;        // throws Error
  std::string to_json() const;  // flat: the fields of `layer` beside memory_causal
  static DecoderLayerOptions from_json(std::string_view text);
  bool operator==(const DecoderLayerOptions&) const = default;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    TransformerLayerOptions::fields(self.layer, visit);
    visit("memory_causal", self.memory_causal);
  }
};

// The options of both layers under the known library's names and defaults. Converts to either layer's own options,
// which have more: kv_heads, positions, offsets, mixing.
struct DilatedTransformerOptions {
  int64_t d_model = 0;  // width; a multiple of nhead
  int64_t nhead = 0;
  std::vector<int64_t> segment_lengths;  // in tokens, one per group
  std::vector<int64_t> dilation_rates;   // one per group
  int64_t dim_feedforward = 2048;
  double dropout = 0.1;  // on attention probabilities, behind the activation, and on every residual branch; in [0, 1)
  std::string activation = "relu";  // one of activation_names()
  double layer_norm_eps = 1e-5;
  double gamma_init = 1.0;     // Xavier gain of value, output and feed-forward projections
  bool causal = false;         // of self-attention
  bool memory_causal = false;  // of cross-attention; an Error in an encoder layer, which has none

  // Throw Error if the groups are no dilated pattern, as Pattern::dilated does; the first one if memory_causal, too.
  operator TransformerLayerOptions() const;
  operator DecoderLayerOptions() const;
};

using DilatedTransformerEncoderLayerImpl = TransformerLayerImpl;
using DilatedTransformerEncoderLayer = TransformerLayer;

// x + dropout(attention(norm(x))), then x + dropout(memory_attention(norm(x), memory)), then
// x + dropout(feed_forward(norm(x))). x and memory [batch, len, dim], of equal shapes.
//
// The memory is taken as it comes: an encoder ends in a LayerNorm. Positions, where there are any, are those of the
// rows in both, so that row i of x and row i of the memory stand at one place.
class DilatedTransformerDecoderLayerImpl : public torch::nn::Cloneable<DilatedTransformerDecoderLayerImpl> {
 public:
  static constexpr const char* kModelName = "DilatedTransformerDecoderLayer";  // in the config.json of a saved one

  // Empty functions: longstride::attention of this process.
  explicit DilatedTransformerDecoderLayerImpl(DecoderLayerOptions options, AttentionFn attend = {},
                                              AttentionFn attend_memory = {});
  void reset() override;
  void reset_parameters();
  // The call's lengths, documents and masks hold for x and the memory alike. call.cache and call.need_lse are refused.
  at::Tensor forward(const at::Tensor& x, const at::Tensor& memory, const MultiheadCall& call = {});

  DecoderLayerOptions options;
  torch::nn::LayerNorm attention_norm{nullptr}, memory_norm{nullptr}, feed_forward_norm{nullptr};
  MultiheadDilatedAttention attention{nullptr}, memory_attention{nullptr};
  FeedForward feed_forward{nullptr};
  torch::nn::Dropout dropout{nullptr};

 private:
  AttentionFn attend_, attend_memory_;
};
TORCH_MODULE(DilatedTransformerDecoderLayer);

}  // namespace longstride
