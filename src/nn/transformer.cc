// The decoder layer, and the known library's names for the options of both layers. Called by LongNet and users.
#include "longstride/nn/transformer.h"

#include <torch/nn/module.h>

#include "nn/layer_parts.h"
#include "nn/require.h"

namespace longstride {
namespace {

// What both layers take from the table of options.
TransformerLayerOptions layer_of(const DilatedTransformerOptions& o) {
  TransformerLayerOptions layer;
  layer.attention.embed_dim = o.d_model;
  layer.attention.num_heads = o.nhead;
  layer.attention.layer_norm_eps = o.layer_norm_eps;
  layer.attention.gamma_init = o.gamma_init;
  layer.attention.attention.pattern = Pattern::dilated(o.segment_lengths, o.dilation_rates, {.causal = o.causal});
  layer.attention.attention.attention_dropout = o.dropout;
  layer.dim_feedforward = o.dim_feedforward;
  layer.dropout = o.dropout;
  layer.activation = o.activation;
  return layer;
}

}  // namespace

DilatedTransformerOptions::operator TransformerLayerOptions() const {
  if (memory_causal) {
    core::refuse("memory_causal", "must be false in an encoder layer, which has no cross-attention", "true",
                 "causal is the switch of its self-attention");
  }
  return layer_of(*this);
}

DilatedTransformerOptions::operator DecoderLayerOptions() const { return {layer_of(*this), memory_causal}; }

MultiheadDilatedAttentionOptions DecoderLayerOptions::memory_attention() const {
  MultiheadDilatedAttentionOptions o = layer.attention;
  o.attention.pattern = o.attention.pattern.with_causal(memory_causal);
  return o;
}

void DecoderLayerOptions::validate() const {
  layer.validate();
  memory_attention().validate();
}

DilatedTransformerDecoderLayerImpl::DilatedTransformerDecoderLayerImpl(DecoderLayerOptions given, AttentionFn attend,
                                                                       AttentionFn attend_memory)
    : options(std::move(given)), attend_(std::move(attend)), attend_memory_(std::move(attend_memory)) {
  options.validate();
  nn::within_memory("embed_dim", std::to_string(options.layer.attention.embed_dim), [&] { reset(); });
}

void DilatedTransformerDecoderLayerImpl::reset() {
  const MultiheadDilatedAttentionOptions& o = options.layer.attention;
  const auto norm = [&] { return nn::layer_norm(o.embed_dim, o.layer_norm_eps); };
  attention_norm = register_module("attention_norm", norm());
  attention = register_module("attention", MultiheadDilatedAttention(o, attend_));
  memory_norm = register_module("memory_norm", norm());
  memory_attention =
      register_module("memory_attention", MultiheadDilatedAttention(options.memory_attention(), attend_memory_));
  feed_forward_norm = register_module("feed_forward_norm", norm());
  feed_forward = register_module("feed_forward", FeedForward(options.layer.feed_forward()));
  dropout = register_module("dropout", torch::nn::Dropout(options.layer.dropout));
}

void DilatedTransformerDecoderLayerImpl::reset_parameters() {
  for (auto norm : {attention_norm, memory_norm, feed_forward_norm}) norm->reset_parameters();
  for (auto part : {attention, memory_attention}) part->reset_parameters();
  feed_forward->reset_parameters();
}

at::Tensor DilatedTransformerDecoderLayerImpl::forward(const at::Tensor& x, const at::Tensor& memory,
                                                       const MultiheadCall& call) {
  nn::refuse_lse(call);
  if (call.cache != nullptr) {
    core::refuse("cache", "must be unset in a decoder layer", "a cache",
                 "decode with TransformerLayer; cross-attention takes whole sequences");
  }
  const at::Tensor& weight = attention->out_proj->weight;
  nn::check_input("x", x, options.layer.attention.embed_dim, weight);
  nn::check_input("memory", memory, options.layer.attention.embed_dim, weight);
  if (x.sizes() != memory.sizes()) {
    core::refuse("memory", fmt::format("must have the shape of x {}", nn::shape_text(x)), nn::shape_text(memory),
                 "pad the shorter one and mark its rows with lengths");
  }
  const at::Tensor attended = x + dropout(attention->forward(attention_norm(x), call).first);
  const at::Tensor crossed =
      attended + dropout(memory_attention->forward_cross(memory_norm(attended), memory, memory, call).first);
  return crossed + dropout(feed_forward(feed_forward_norm(crossed)));
}

}  // namespace longstride
