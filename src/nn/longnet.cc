// LongNet: stacks of layers between LayerNorms. Called by users and the factory.
#include "longstride/nn/longnet.h"

#include <torch/nn/module.h>

#include "nn/layer_parts.h"
#include "nn/placement.h"
#include "nn/require.h"

namespace longstride {

LongNetImpl::LongNetImpl(LongNetConfig given, LongNetAttention attend)
    : config(std::move(given)), attend_(std::move(attend)) {
  config.validate();
  nn::within_memory("d_model", std::to_string(config.layer.attention.embed_dim), [&] { reset(); });
}

void LongNetImpl::reset() {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  if (config.has_encoder()) {
    encoder_layers = register_module("encoder_layers", torch::nn::ModuleList());
    for (int64_t i = 0; i < config.num_encoder_layers; ++i) {
      encoder_layers->push_back(TransformerLayer(config.encoder_layer(), attend_.encoder));
    }
    encoder_norm = register_module("encoder_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  }
  if (config.has_decoder()) {
    decoder_layers = register_module("decoder_layers", torch::nn::ModuleList());
    const DecoderLayerOptions layer = config.decoder_layer();
    for (int64_t i = 0; i < config.num_decoder_layers; ++i) {
      if (config.has_encoder()) {
        decoder_layers->push_back(DilatedTransformerDecoderLayer(layer, attend_.decoder, attend_.memory));
      } else {
        decoder_layers->push_back(TransformerLayer(layer.layer, attend_.decoder));
      }
    }
    decoder_norm = register_module("decoder_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  }
}

void LongNetImpl::reset_parameters() {
  for (auto* stack : {&encoder_layers, &decoder_layers}) {
    if (stack->is_empty()) continue;
    for (const auto& child : **stack) {
      if (auto* layer = child->as<TransformerLayer>()) {
        layer->reset_parameters();
      } else {
        child->as<DilatedTransformerDecoderLayer>()->reset_parameters();
      }
    }
  }
  for (auto norm : {encoder_norm, decoder_norm}) {
    if (!norm.is_empty()) norm->reset_parameters();
  }
}

const nn::Placement* LongNetImpl::placement() const {
  const auto& layers = config.has_encoder() ? encoder_layers : decoder_layers;
  return layers->ptr(0)->as<TransformerLayer>()->attention->attention->placement();
}

void LongNetImpl::check(const char* argument, const at::Tensor& x, const CallOptions& call) const {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  nn::check_input(argument, x, o.embed_dim, (config.has_encoder() ? encoder_norm : decoder_norm)->weight);
  const int64_t most = o.positions.max_len;
  if (const int64_t len = nn::whole_length(placement(), argument, x.size(1), call); len > most) {
    core::refuse(argument, fmt::format("must not be longer than max_len {}", most), len, "raise max_len in the config");
  }
}

at::Tensor LongNetImpl::run_layers(torch::nn::ModuleList& layers, at::Tensor x, const at::Tensor& memory,
                                   const CallOptions& call) {
  // One set of factors for all layers, of the type in which attention will run.
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  const RotaryFactors rotary = nn::row_factors(o, placement(), call, 0, x.size(1), nn::attention_type(x), x.device());
  const bool draws_random = is_training() && config.layer.draws_random();
  for (const auto& child : *layers) {
    const auto plain = std::dynamic_pointer_cast<TransformerLayerImpl>(child);
    const auto crossing = std::dynamic_pointer_cast<DilatedTransformerDecoderLayerImpl>(child);
    // Holds all that it reads: the backward may run it long after this call.
    const auto run = [plain, crossing, memory, call, rotary](const at::Tensor& in) {
      MultiheadCall layer_call{call};
      if (rotary.defined()) layer_call.rotary = &rotary;
      return plain ? plain->forward(in, layer_call) : crossing->forward(in, memory, layer_call);
    };
    if (config.activation_checkpointing) {
      std::vector<at::Tensor> read = child->parameters();
      if (crossing) read.push_back(memory);
      x = checkpoint(run, x, std::move(read), draws_random);
    } else {
      x = run(x);
    }
  }
  return x;
}

at::Tensor LongNetImpl::encode(const at::Tensor& source, const CallOptions& call) {
  if (!config.has_encoder()) {
    core::refuse("encode()", "needs a form with an encoder", longstride::name(config.form), "call forward()");
  }
  check("source", source, call);
  return encoder_norm(run_layers(encoder_layers, source, {}, call));
}

at::Tensor LongNetImpl::decode(const at::Tensor& target, const at::Tensor& memory, const CallOptions& call) {
  if (config.form != LongNetForm::kEncoderDecoder) {
    core::refuse("decode()", "needs the form encoder_decoder", longstride::name(config.form), "call forward()");
  }
  check("target", target, call);
  check("memory", memory, call);
  if (target.sizes() != memory.sizes()) {
    core::refuse("target", fmt::format("must have the shape of the source {}", nn::shape_text(memory)),
                 nn::shape_text(target), "pad the shorter one and mark its rows with lengths");
  }
  return decoder_norm(run_layers(decoder_layers, target, memory, call));
}

at::Tensor LongNetImpl::forward(const at::Tensor& source, const at::Tensor& target, const CallOptions& call) {
  if (config.form != LongNetForm::kEncoderDecoder && target.defined()) {
    core::refuse("target", fmt::format("must be unset in the form {}", longstride::name(config.form)),
                 nn::shape_text(target), "use the form encoder_decoder, or pass one sequence");
  }
  check("source", source, call);
  switch (config.form) {
    case LongNetForm::kEncoder:
      return encode(source, call);
    case LongNetForm::kDecoder:
      return decoder_norm(run_layers(decoder_layers, source, {}, call));
    case LongNetForm::kEncoderDecoder:
      break;
  }
  const at::Tensor& read = target.defined() ? target : source;
  if (read.sizes() != source.sizes()) {
    core::refuse("target", fmt::format("must have the shape of the source {}", nn::shape_text(source)),
                 nn::shape_text(read), "pad the shorter one and mark its rows with lengths");
  }
  return decode(read, encode(source, call), call);
}

}  // namespace longstride
