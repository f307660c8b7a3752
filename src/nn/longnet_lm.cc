// LongNetLM: its config, embedding, layers, head, loss and the decode step. Called by generation, checkpoints and the
// program.
#include "longstride/nn/longnet_lm.h"

#include <torch/nn/functional/linear.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/module.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <variant>

#include "nn/layer_parts.h"
#include "nn/placement.h"
#include "nn/require.h"

namespace longstride {
namespace {

namespace F = torch::nn::functional;

// Logits of one chunk of the loss: 2^22 float32 make 16 MiB, a few of which live at a time.
constexpr int64_t kChunkLogits = int64_t{1} << 22;

// Of ids that meet `weight`.
void check_ids(const char* argument, const at::Tensor& ids, int64_t vocab, std::optional<int64_t> also,
               const at::Tensor& weight) {
  nn::require_dense(argument, ids);
  if (ids.dim() != 2 || ids.scalar_type() != at::kLong) {
    core::refuse(argument, "must be int64 [batch, len]",
                 fmt::format("{} {}", c10::toString(ids.scalar_type()), nn::shape_text(ids)));
  }
  if (ids.device() != weight.device()) {
    core::refuse(argument, fmt::format("must be on the model's device {}", weight.device().str()), ids.device().str(),
                 "move one of them with to()");
  }
  if (ids.numel() == 0 || ids.is_meta()) return;
  at::Tensor outside = (ids < 0).logical_or(ids >= vocab);
  if (also) outside = outside.logical_and(ids != *also);
  if (!outside.any().item<bool>()) return;
  core::refuse(argument, fmt::format("must be in [0, {})", vocab), ids.masked_select(outside)[0].item<int64_t>());
}

}  // namespace

LongNetLMConfig::LongNetLMConfig() {
  layer.attention.embed_dim = 256;
  layer.attention.num_heads = 8;
  layer.attention.attention.pattern =
      Pattern::dilated({2048, 4096, 8192, 16384, 32768}, {1, 2, 4, 6, 12}, {.causal = true});
  layer.attention.positions.kind = Positions::kRope;
  layer.attention.gamma_init = 0;
  layer.dim_feedforward = 0;
  layer.dropout = 0;
  layer.activation = "gelu";
}

TransformerLayerOptions LongNetLMConfig::whole_layer() const {
  TransformerLayerOptions o = layer;
  if (o.dim_feedforward == 0) o.dim_feedforward = 4 * o.attention.embed_dim;
  if (o.attention.gamma_init == 0) o.attention.gamma_init = std::sqrt(std::log(2.0 * static_cast<double>(layers)));
  return o;
}

void LongNetLMConfig::validate() const {
  const MultiheadDilatedAttentionOptions& o = layer.attention;
  nn::require_positive("vocab", vocab);
  nn::require_positive("dim", o.embed_dim);
  nn::require_positive("layers", layers);
  nn::require_positive("heads", o.num_heads);
  if (o.embed_dim % o.num_heads != 0) {
    core::refuse("dim", fmt::format("must be a multiple of heads {}", o.num_heads), o.embed_dim);
  }
  if (layer.dim_feedforward < 0) {
    core::refuse("dim_feedforward", "must be positive, or 0 for 4 * dim", layer.dim_feedforward);
  }
  if (!(o.gamma_init >= 0) || !std::isfinite(o.gamma_init)) {
    core::refuse("gamma_init", "must be positive, or 0 for the default", o.gamma_init);
  }
  if (!o.attention.pattern.causal()) {
    core::refuse("causal", "must be true in a language model", "false", "it predicts what follows");
  }
  if (o.attention.learned) {
    core::refuse("learned", "must be unset in a language model", "learned blocks",
                 "it decodes token by token, and a block is chosen by all of its row; give blocks");
  }
  for (const BlockPattern& block : o.attention.pattern.blocks()) {
    const std::string needed = std::visit([](const auto& rule) { return rule.needed_to_stay(); }, block.rule());
    if (needed.empty()) continue;
    core::refuse("blocks", "must be the same for a prefix as for what it grows into, or decoding is not the model",
                 block.name(), fmt::format("give {}", needed));
  }
  whole_layer().validate();
}

LongNetLMImpl::LongNetLMImpl(LongNetLMConfig given, AttentionFn attend)
    : config(std::move(given)), attend_(std::move(attend)) {
  config.validate();
  const int64_t dim = config.layer.attention.embed_dim;
  nn::within_memory("vocab x dim", fmt::format("{} x {}", config.vocab, dim), [&] { reset(); });
}

void LongNetLMImpl::reset() {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  embedding = register_module("embedding", torch::nn::Embedding(config.vocab, o.embed_dim));
  dropout = register_module("dropout", torch::nn::Dropout(config.layer.dropout));
  layers = register_module("layers", torch::nn::ModuleList());
  for (int64_t i = 0; i < config.layers; ++i) layers->push_back(TransformerLayer(config.whole_layer(), attend_));
  final_norm = register_module("final_norm", nn::layer_norm(o.embed_dim, o.layer_norm_eps));
  if (!config.tied_head) {
    head = register_module("head", torch::nn::Linear(torch::nn::LinearOptions(o.embed_dim, config.vocab).bias(false)));
  }
  reset_own_parameters();
}

void LongNetLMImpl::reset_own_parameters() {
  const at::NoGradGuard no_grad;
  // Rows of norm 1: with the factor sqrt(dim) of hidden() the stream starts at unit variance, and logits of a
  // normalised hidden state do too.
  const double deviation = 1 / std::sqrt(static_cast<double>(config.layer.attention.embed_dim));
  embedding->weight.normal_(0, deviation);
  if (!config.tied_head) head->weight.normal_(0, deviation);
  final_norm->reset_parameters();
}

void LongNetLMImpl::reset_parameters() {
  reset_own_parameters();
  for (const auto& layer : *layers) layer->as<TransformerLayer>()->reset_parameters();
}

at::Tensor LongNetLMImpl::embed(const at::Tensor& tokens) {
  return dropout(embedding(tokens) * std::sqrt(static_cast<double>(config.layer.attention.embed_dim)));
}

const nn::Placement* LongNetLMImpl::placement() const {
  return layers->ptr(0)->as<TransformerLayer>()->attention->attention->placement();
}

RotaryFactors LongNetLMImpl::factors(const at::Tensor& x, int64_t position0, const CallOptions& call) const {
  const MultiheadDilatedAttentionOptions& o = config.layer.attention;
  return nn::row_factors(o, placement(), call, position0, x.size(1), nn::attention_type(x), x.device());
}

void LongNetLMImpl::check_tokens(const at::Tensor& tokens, const CallOptions& call) const {
  check_ids("tokens", tokens, config.vocab, std::nullopt, embedding->weight);
  const int64_t most = config.layer.attention.positions.max_len;
  if (const int64_t len = nn::whole_length(placement(), "tokens", tokens.size(1), call); len > most) {
    core::refuse("tokens", fmt::format("must not be longer than max_len {}", most), len, "raise max_len in the config");
  }
}

at::Tensor LongNetLMImpl::hidden(const at::Tensor& tokens, const CallOptions& call) {
  check_tokens(tokens, call);
  at::Tensor x = embed(tokens);  // [batch, len, dim]
  const RotaryFactors rotary = factors(x, 0, call);
  const bool draws_random = is_training() && config.layer.draws_random();
  for (const auto& child : *layers) {
    const auto layer = std::dynamic_pointer_cast<TransformerLayerImpl>(child);
    // Holds all that it reads: the backward may run it long after this call.
    const auto run = [layer, call, rotary](const at::Tensor& in) {
      MultiheadCall layer_call{call};
      if (rotary.defined()) layer_call.rotary = &rotary;
      return layer->forward(in, layer_call);
    };
    x = config.activation_checkpointing ? checkpoint(run, x, layer->parameters(), draws_random) : run(x);
  }
  return final_norm(x);
}

at::Tensor LongNetLMImpl::project_to_vocab(const at::Tensor& h) const {
  return F::linear(h, config.tied_head ? embedding->weight : head->weight);
}

at::Tensor LongNetLMImpl::forward(const at::Tensor& tokens, const CallOptions& call) {
  return project_to_vocab(hidden(tokens, call));
}

void LongNetLMImpl::check_pair(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call) const {
  check_ids("targets", targets, config.vocab, kIgnored, embedding->weight);
  check_tokens(tokens, call);
  if (tokens.sizes() != targets.sizes()) {
    core::refuse("targets", fmt::format("must have the shape of tokens {}", nn::shape_text(tokens)),
                 nn::shape_text(targets));
  }
}

at::Tensor LongNetLMImpl::token_losses(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call) {
  check_pair(tokens, targets, call);
  const at::Tensor h = hidden(tokens, call).flatten(0, 1);  // [batch * len, dim]
  const auto loss_type = h.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  // With a gradient all the same: an empty shard takes part in its group's backward, and in the sums of gradients.
  if (h.size(0) == 0) return project_to_vocab(h).sum(1).to(loss_type).view(targets.sizes());
  const at::Tensor wanted = targets.flatten();
  const int64_t chunk = std::max<int64_t>(1, kChunkLogits / config.vocab);
  const at::Tensor weight = config.tied_head ? embedding->weight : head->weight;
  std::vector<at::Tensor> losses;
  int64_t begin = 0;
  for (const at::Tensor& part : h.split(chunk)) {
    const at::Tensor part_wanted = wanted.narrow(0, begin, part.size(0));
    const auto run = [weight, part_wanted, loss_type](const at::Tensor& in) {
      return F::cross_entropy(F::linear(in, weight).to(loss_type), part_wanted,
                              F::CrossEntropyFuncOptions().reduction(torch::kNone).ignore_index(kIgnored));
    };
    losses.push_back(checkpoint(run, part, {weight}, false));
    begin += part.size(0);
  }
  return at::cat(losses).view(targets.sizes());
}

at::Tensor LongNetLMImpl::loss(const at::Tensor& tokens, const at::Tensor& targets, const CallOptions& call) {
  nn::require_readable("targets", targets);
  const auto count = [&] { return (targets != kIgnored).sum().item<int64_t>(); };
  const nn::Placement* const at = placement();
  const int64_t counted = at == nullptr ? count() : at->sum("the count of targets", [&] {
    check_pair(tokens, targets, call);
    return count();
  });
  if (counted == 0) core::refuse("targets", "must hold one that counts", "none");
  return token_losses(tokens, targets, call).sum() / static_cast<double>(counted);
}

DecodeState LongNetLMImpl::start_decoding(int64_t batch, int64_t capacity) const {
  nn::require_positive("batch", batch);
  nn::refuse_decoding(placement());
  const int64_t most = config.layer.attention.positions.max_len;
  if (capacity <= 0 || capacity > most) {
    core::refuse("capacity", fmt::format("must be in [1, max_len {}]", most), capacity,
                 capacity > most ? "ask for fewer tokens, or raise max_len in the config" : "");
  }
  DecodeState state;
  state.capacity = capacity;
  for (const auto& layer : *layers) {
    state.layers.push_back(layer->as<TransformerLayer>()->attention->make_cache(batch, capacity));
  }
  return state;
}

at::Tensor LongNetLMImpl::decode(const at::Tensor& tokens, DecodeState& state) {
  const at::NoGradGuard no_grad;
  nn::refuse_decoding(placement());
  if (is_training()) core::refuse("model", "must be in eval mode to decode", "training mode", "call eval()");
  check_ids("tokens", tokens, config.vocab, std::nullopt, embedding->weight);
  if (state.layers.size() != layers->size()) {
    core::refuse("state", "must be made by start_decoding() of this model",
                 fmt::format("one of {} layers for a model of {}", state.layers.size(), layers->size()));
  }
  const int64_t len = tokens.size(1);
  if (len == 0) core::refuse("tokens", "must hold at least one token a row", nn::shape_text(tokens));
  if (state.length < 0 || state.length > state.capacity - len) {
    core::refuse("tokens", fmt::format("must fit behind {} of {} tokens", state.length, state.capacity), len,
                 "start decoding with a larger capacity");
  }
  at::Tensor x = embed(tokens);  // [batch, n, dim]
  const RotaryFactors rotary = factors(x, state.length, {});
  for (size_t i = 0; i < state.layers.size(); ++i) {
    // Taken from the state, so that a step that failed half-way can be run again.
    state.layers[i].length = state.length;
    MultiheadCall call;
    call.cache = &state.layers[i];
    if (rotary.defined()) call.rotary = &rotary;
    x = layers[i]->as<TransformerLayer>()->forward(x, call);
  }
  state.length += len;
  return project_to_vocab(final_norm(x.select(1, len - 1)));
}

}  // namespace longstride
