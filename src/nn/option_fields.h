// The fields of every options struct of this room, under the names that JSON has them. Nested options are flat: the
// JSON of a layer is one object. Called by config_json.cc and by the factory, which documents them.
#pragma once

#include "longstride/nn/longnet_lm.h"
#include "longstride/nn/transformer.h"
#include "nn/json_fields.h"

namespace longstride::nn {

inline constexpr auto learned_blocks_fields = [](auto& o, auto&& visit) {
  visit("block_size", o.block_size);
  visit("density", o.density);
  visit("min_density", o.min_density);
  visit("max_density", o.max_density);
  visit("hidden", o.hidden);
  visit("temperature", o.temperature);
  visit("head_dim", o.head_dim);
  visit("kv_heads", o.kv_heads);
};

inline constexpr auto dilated_attention_fields = [](auto& o, auto&& visit) {
  visit("segment_lengths", o.segment_lengths);
  visit("dilation_rates", o.dilation_rates);
  visit("causal", o.causal);
  visit("head_offset", o.head_offset);
  visit("offsets", o.offsets);
  visit("mixing", o.mixing);
  visit("average", o.average);
  visit("padding", o.padding);
  visit("softmax_scale", o.softmax_scale);
  visit("attention_dropout", o.attention_dropout);
  visit("blocks", o.blocks);
  visit("learned", o.learned);
};

inline constexpr auto position_fields = [](auto& o, auto&& visit) {
  visit("positions", o.kind);
  visit("rope_base", o.base);
  visit("xpos_scale_base", o.xpos_scale_base);
  visit("max_len", o.max_len);
};

// What a layer takes from its attention's options: all but what the layer itself has.
inline constexpr auto layer_attention_fields = [](auto& o, auto&& visit) {
  visit("embed_dim", o.embed_dim);
  visit("num_heads", o.num_heads);
  visit("kv_heads", o.kv_heads);
  dilated_attention_fields(o.attention, visit);
  visit("fused_qkv", o.fused_qkv);
  visit("bias", o.bias);
  visit("qk_norm", o.qk_norm);
  position_fields(o.positions, visit);
};

inline constexpr auto multihead_fields = [](auto& o, auto&& visit) {
  layer_attention_fields(o, visit);
  visit("sub_layer_norm", o.sub_layer_norm);
  visit("layer_norm_eps", o.layer_norm_eps);
  visit("gamma_init", o.gamma_init);
};

inline constexpr auto feed_forward_fields = [](auto& o, auto&& visit) {
  visit("dim", o.dim);
  visit("hidden", o.hidden);
  visit("activation", o.activation);
  visit("dropout", o.dropout);
  visit("sub_layer_norm", o.sub_layer_norm);
  visit("layer_norm_eps", o.layer_norm_eps);
  visit("gamma_init", o.gamma_init);
};

inline constexpr auto transformer_layer_fields = [](auto& o, auto&& visit) {
  layer_attention_fields(o.attention, visit);
  visit("dim_feedforward", o.dim_feedforward);
  visit("dropout", o.dropout);
  visit("activation", o.activation);
  visit("sub_layer_norm", o.sub_layer_norm);
  visit("layer_norm_eps", o.layer_norm_eps);
  visit("gamma_init", o.gamma_init);
};

inline constexpr auto decoder_layer_fields = [](auto& o, auto&& visit) {
  transformer_layer_fields(o.layer, visit);
  visit("memory_causal", o.memory_causal);
};

inline constexpr auto longnet_fields = [](auto& c, auto&& visit) {
  visit("form", c.form);
  visit("d_model", c.d_model);
  visit("nhead", c.nhead);
  visit("kv_heads", c.kv_heads);
  visit("num_encoder_layers", c.num_encoder_layers);
  visit("num_decoder_layers", c.num_decoder_layers);
  visit("dim_feedforward", c.dim_feedforward);
  visit("segment_lengths", c.segment_lengths);
  visit("dilation_rates", c.dilation_rates);
  visit("head_offset", c.head_offset);
  visit("mixing", c.mixing);
  visit("average", c.average);
  visit("padding", c.padding);
  visit("encoder_causal", c.encoder_causal);
  visit("decoder_causal", c.decoder_causal);
  visit("memory_causal", c.memory_causal);
  visit("positions", c.positions);
  visit("rope_base", c.rope_base);
  visit("xpos_scale_base", c.xpos_scale_base);
  visit("max_len", c.max_len);
  visit("dropout", c.dropout);
  visit("attention_dropout", c.attention_dropout);
  visit("activation", c.activation);
  visit("fused_qkv", c.fused_qkv);
  visit("qk_norm", c.qk_norm);
  visit("layer_norm_eps", c.layer_norm_eps);
  visit("encoder_gamma_init", c.encoder_gamma_init);
  visit("decoder_gamma_init", c.decoder_gamma_init);
  visit("activation_checkpointing", c.activation_checkpointing);
};

inline constexpr auto longnet_lm_fields = [](auto& c, auto&& visit) {
  visit("vocab", c.vocab);
  visit("dim", c.dim);
  visit("layers", c.layers);
  visit("heads", c.heads);
  visit("kv_heads", c.kv_heads);
  visit("dim_feedforward", c.dim_feedforward);
  visit("segment_lengths", c.segment_lengths);
  visit("dilation_rates", c.dilation_rates);
  visit("blocks", c.blocks);
  visit("rope_base", c.rope_base);
  visit("xpos_scale_base", c.xpos_scale_base);
  visit("max_len", c.max_len);
  visit("dropout", c.dropout);
  visit("attention_dropout", c.attention_dropout);
  visit("activation", c.activation);
  visit("fused_qkv", c.fused_qkv);
  visit("qk_norm", c.qk_norm);
  visit("tied_head", c.tied_head);
  visit("layer_norm_eps", c.layer_norm_eps);
  visit("gamma_init", c.gamma_init);
  visit("activation_checkpointing", c.activation_checkpointing);
  visit("head_offset", c.head_offset);
  visit("mixing", c.mixing);
  visit("positions", c.positions);
};

}  // namespace longstride::nn
