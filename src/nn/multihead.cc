// MultiheadDilatedAttention: projections, positions, cache and norms around DilatedAttention. Called by users and the
// transformer layer.
#include <ATen/Functions.h>
#include <torch/nn/functional/linear.h>
#include <torch/nn/init.h>
#include <torch/nn/module.h>
#include <torch/utils.h>

#include <limits>

#include "longstride/nn/attention.h"
#include "nn/cache.h"
#include "nn/layer_parts.h"
#include "nn/placement.h"
#include "nn/require.h"

namespace longstride {
namespace {

namespace F = torch::nn::functional;

torch::nn::Linear linear(int64_t in, int64_t out, bool bias) {
  return torch::nn::Linear(torch::nn::LinearOptions(in, out).bias(bias));
}

// The lengths that a mask of trailing padding says.
std::vector<int64_t> lengths_of(const at::Tensor& mask, int64_t batch, int64_t len) {
  constexpr const char* kRemedy = "padding at the end of rows only; say anything else with lengths or cu_seqlens";
  nn::require_readable("key_padding_mask", mask);
  if (mask.scalar_type() != at::kBool || mask.dim() != 2 || mask.size(0) != batch || mask.size(1) != len) {
    core::refuse("key_padding_mask", fmt::format("must be bool [{}, {}], true where a key is padding", batch, len),
                 fmt::format("{} {}", c10::toString(mask.scalar_type()), nn::shape_text(mask)), kRemedy);
  }
  const at::Tensor rows = mask.cpu();
  const at::Tensor lengths = len - rows.sum(1);  // [batch]
  const at::Tensor trailing = at::arange(len).unsqueeze(0) >= lengths.unsqueeze(1);
  if (!at::equal(rows, trailing)) {
    core::refuse("key_padding_mask", "must be true at the end of rows only", "a mask of another kind", kRemedy);
  }
  return {lengths.data_ptr<int64_t>(), lengths.data_ptr<int64_t>() + batch};
}

}  // namespace

void MultiheadDilatedAttentionOptions::validate() const {
  nn::require_positive("embed_dim", embed_dim);
  nn::require_positive("num_heads", num_heads);
  if (embed_dim % num_heads != 0) {
    core::refuse("embed_dim", fmt::format("must be a multiple of num_heads {}", num_heads), embed_dim);
  }
  if (kv_heads < 0 || num_heads % key_value_heads() != 0) {
    core::refuse("kv_heads", fmt::format("must divide num_heads {}, or be 0 for as many", num_heads), kv_heads);
  }
  if (attention.learned && (attention.learned->head_dim != 0 || attention.learned->kv_heads != 0)) {
    core::refuse("learned.head_dim and learned.kv_heads", "must be 0 in a multihead module",
                 fmt::format("{} and {}", attention.learned->head_dim, attention.learned->kv_heads),
                 "they follow from embed_dim, num_heads and kv_heads");
  }
  inner_attention().validate();
  positions.validate();
  if (!positions.alibi_slopes.empty() && std::ssize(positions.alibi_slopes) != num_heads) {
    core::refuse("alibi_slopes", fmt::format("must have one slope for each of num_heads {}, or none", num_heads),
                 positions.alibi_slopes.size());
  }
  nn::require_positive_finite("layer_norm_eps", layer_norm_eps);
  nn::require_positive_finite("gamma_init", gamma_init);
  const DilatedOptions& dilated = attention.pattern.options();
  const auto groups = std::ssize(attention.pattern.groups());
  if (dilated.mixing == Mixing::kHeadPartition && key_value_heads() < groups) {
    core::refuse("kv_heads", fmt::format("must be at least the number of groups {} under head_partition", groups),
                 key_value_heads(), "use joint mixing, which has no such limit");
  }
  if (dilated.offsets && std::ssize(*dilated.offsets) != groups * key_value_heads()) {
    core::refuse("offsets", fmt::format("must have groups x kv_heads = {} entries", groups * key_value_heads()),
                 dilated.offsets->size());
  }
  if (are_rotary(positions.kind) && head_dim() % 2 != 0) {
    core::refuse("embed_dim / num_heads", fmt::format("must be even for {} positions", name(positions.kind)),
                 head_dim());
  }
}

DilatedAttentionOptions MultiheadDilatedAttentionOptions::inner_attention() const {
  DilatedAttentionOptions inner = attention;
  if (inner.learned) {
    inner.learned->head_dim = head_dim();
    inner.learned->kv_heads = key_value_heads();
  }
  return inner;
}

MultiheadDilatedAttentionImpl::MultiheadDilatedAttentionImpl(MultiheadDilatedAttentionOptions given, AttentionFn attend)
    : options(std::move(given)), attend_(std::move(attend)) {
  options.validate();
  nn::within_memory("embed_dim", std::to_string(options.embed_dim), [&] { reset(); });
}

void MultiheadDilatedAttentionImpl::reset() {
  const int64_t embed = options.embed_dim;
  const int64_t key_value = options.key_value_heads() * options.head_dim();
  if (options.fused_qkv) {
    qkv_proj = register_module("qkv_proj", linear(embed, embed + 2 * key_value, options.bias));
  } else {
    q_proj = register_module("q_proj", linear(embed, embed, options.bias));
    k_proj = register_module("k_proj", linear(embed, key_value, options.bias));
    v_proj = register_module("v_proj", linear(embed, key_value, options.bias));
  }
  if (options.qk_norm) {
    q_norm = register_module("q_norm", nn::layer_norm(options.head_dim(), options.layer_norm_eps));
    k_norm = register_module("k_norm", nn::layer_norm(options.head_dim(), options.layer_norm_eps));
  }
  if (options.sub_layer_norm) inner_norm = register_module("inner_norm", nn::layer_norm(embed, options.layer_norm_eps));
  out_proj = register_module("out_proj", linear(embed, embed, options.bias));
  if (options.sinks) sinks = register_parameter("sinks", at::empty({options.num_heads}));
  attention = register_module("attention", DilatedAttention(options.inner_attention(), attend_));
  retention_ = attend_ ? std::nullopt : Retention::of(options.attention.pattern);
  // Distances to the sinks are those of the whole sequence, of which the rows of a cache do not tell once some are
  // gone.
  if (options.positions.kind == Positions::kAlibi && retention_ && retention_->sinks() > 0) retention_.reset();
  reset_parameters();
}

void MultiheadDilatedAttentionImpl::reset_parameters() {
  const at::NoGradGuard no_grad;
  const int64_t embed = options.embed_dim;
  const int64_t key_value = options.key_value_heads() * options.head_dim();
  at::Tensor q, k, v;
  if (options.fused_qkv) {
    // Each part has the fans of its own projection.
    q = qkv_proj->weight.narrow(0, 0, embed);
    k = qkv_proj->weight.narrow(0, embed, key_value);
    v = qkv_proj->weight.narrow(0, embed + key_value, key_value);
  } else {
    q = q_proj->weight;
    k = k_proj->weight;
    v = v_proj->weight;
  }
  torch::nn::init::xavier_uniform_(q);
  torch::nn::init::xavier_uniform_(k);
  torch::nn::init::xavier_uniform_(v, options.gamma_init);
  torch::nn::init::xavier_uniform_(out_proj->weight, options.gamma_init);
  for (auto& projection : {qkv_proj, q_proj, k_proj, v_proj, out_proj}) {
    if (!projection.is_empty() && options.bias) projection->bias.zero_();
  }
  for (auto norm : {q_norm, k_norm, inner_norm}) {
    if (!norm.is_empty()) norm->reset_parameters();
  }
  if (sinks.defined()) sinks.zero_();
}

void MultiheadDilatedAttentionImpl::pretty_print(std::ostream& stream) const {
  stream << fmt::format("longstride::MultiheadDilatedAttention(embed_dim={}, num_heads={}, kv_heads={}, positions={})",
                        options.embed_dim, options.num_heads, options.key_value_heads(),
                        longstride::name(options.positions.kind));
}

MultiheadDilatedAttentionImpl::Projected MultiheadDilatedAttentionImpl::project(const at::Tensor& query,
                                                                                const at::Tensor& key,
                                                                                const at::Tensor& value) {
  const int64_t embed = options.embed_dim;
  const int64_t key_value = options.key_value_heads() * options.head_dim();
  at::Tensor q, k, v;  // [batch, len, heads * dim]
  if (!options.fused_qkv) {
    q = q_proj(query);
    k = k_proj(key);
    v = v_proj(value);
  } else if (query.is_same(key) && query.is_same(value)) {
    // Views of one product: attention takes any strides with dim contiguous.
    const auto parts = qkv_proj(query).split_with_sizes({embed, key_value, key_value}, 2);
    q = parts[0];
    k = parts[1];
    v = parts[2];
  } else {
    const auto weight = qkv_proj->weight.split_with_sizes({embed, key_value, key_value}, 0);
    std::vector<at::Tensor> bias(3);
    if (options.bias) bias = qkv_proj->bias.split_with_sizes({embed, key_value, key_value}, 0);
    q = F::linear(query, weight[0], bias[0]);
    k = F::linear(key, weight[1], bias[1]);
    v = F::linear(value, weight[2], bias[2]);
  }
  const auto heads = [&](const at::Tensor& t, int64_t count) { return t.unflatten(2, {count, options.head_dim()}); };
  return {heads(q, options.num_heads), heads(k, options.key_value_heads()), heads(v, options.key_value_heads())};
}

std::pair<at::Tensor, std::optional<at::Tensor>> MultiheadDilatedAttentionImpl::forward(const at::Tensor& x,
                                                                                        const MultiheadCall& call) {
  return forward_cross(x, x, x, call);
}

std::pair<at::Tensor, std::optional<at::Tensor>> MultiheadDilatedAttentionImpl::forward_cross(
    const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const MultiheadCall& call) {
  nn::check_input("query", query, options.embed_dim, out_proj->weight);
  nn::check_input("key", key, options.embed_dim, out_proj->weight);
  nn::check_input("value", value, options.embed_dim, out_proj->weight);
  if (query.sizes() != key.sizes() || key.sizes() != value.sizes()) {
    core::refuse("query, key and value", "must have equal shapes",
                 fmt::format("{}, {} and {}", nn::shape_text(query), nn::shape_text(key), nn::shape_text(value)),
                 "mark shorter rows with lengths");
  }
  const int64_t batch = query.size(0);
  const int64_t len = query.size(1);
  if (call.position0 < 0) core::refuse("position0", "must not be negative", call.position0);
  AttentionOptions attention_call{call};
  const nn::Placement* const placement = attention->placement();
  if (call.key_padding_mask) {
    if (placement != nullptr) {
      core::refuse("key_padding_mask", fmt::format("must be unset {}", nn::kOverRanks), "a mask",
                   "give lengths of the whole sequence");
    }
    if (call.lengths || call.cu_seqlens) {
      core::refuse("key_padding_mask", "must not come together with lengths or cu_seqlens", "both", "give one of them");
    }
    attention_call.lengths = lengths_of(*call.key_padding_mask, batch, len);
  }
  KeyValueCache* cache = call.cache;
  if (cache != nullptr) {
    nn::refuse_decoding(placement);
    if (attention_call.cu_seqlens || attention_call.lengths) {
      core::refuse("cache", "must not come together with lengths, cu_seqlens or a mask", "both",
                   "a cache holds one document a batch row");
    }
    if (options.attention.learned) {
      core::refuse("cache", "must be unset with learned blocks", "a cache", "run whole sequences");
    }
    if (!query.is_same(key) || !key.is_same(value)) {
      core::refuse("cache", "needs self-attention", "different query, key and value", "pass one tensor");
    }
    if (torch::GradMode::is_enabled()) {
      core::refuse("cache", "needs grad mode off", "grad mode on", "put a torch::NoGradGuard around decoding");
    }
    nn::check_room(*cache, retention_, len);
    if (call.position0 > std::numeric_limits<int64_t>::max() - cache->length) {
      core::refuse("position0", "must leave room for the cache's rows below 2^63", call.position0);
    }
  }

  Projected p = project(query, key, value);
  if (options.qk_norm) {
    p.q = q_norm(p.q);
    p.k = k_norm(p.k);
  }
  RotaryFactors factors;
  if (call.rotary != nullptr) {
    if (!are_rotary(options.positions.kind)) {
      core::refuse("rotary", "must be unset in a module whose positions are not rope or xpos", "factors",
                   "set positions.kind");
    }
    if (!call.rotary->defined()) {
      core::refuse("factors of rotary", "must be defined", "undefined ones", "take them of rotary_factors()");
    }
    factors = *call.rotary;
  } else {
    const int64_t position0 = call.position0 + (cache != nullptr ? cache->length : 0);
    factors = nn::row_factors(options, placement, call, position0, len, p.v.scalar_type(), query.device());
  }
  if (options.positions.kind == Positions::kAlibi) {
    attention_call.alibi_slopes = options.positions.slopes(options.num_heads, query.device());
  }
  if (factors.defined()) {
    p.q = rotate(p.q, factors.q);
    p.k = rotate(p.k, factors.k);
  }
  // Under autocast norms return float32 where projections return a lower type.
  p.q = p.q.to(p.v.scalar_type());
  p.k = p.k.to(p.v.scalar_type());
  if (cache != nullptr) {
    attention_call.query_start = cache->length - nn::append(*cache, retention_, p.k, p.v);
  }
  AttentionResult result = attention->forward(p.q, p.k, p.v, attention_call, call.choice);
  if (sinks.defined()) result = with_sink(result, sinks);
  if (cache != nullptr) cache->length += len;
  at::Tensor out = result.out.flatten(2);  // [batch, len, embed_dim]
  if (options.sub_layer_norm) out = inner_norm(out);
  out = out_proj(out);
  return {out, call.need_lse ? std::optional<at::Tensor>(result.lse) : std::nullopt};
}

KeyValueCache MultiheadDilatedAttentionImpl::make_cache(int64_t batch, int64_t capacity) const {
  nn::refuse_decoding(attention->placement());
  nn::require_positive("batch", batch);
  nn::require_positive("capacity", capacity);
  auto like = out_proj->weight.options().requires_grad(false);
  if (const auto lower = nn::autocast_type(out_proj->weight.device().type())) like = like.dtype(*lower);
  return nn::empty_cache({batch, capacity, options.key_value_heads(), options.head_dim()}, retention_, like);
}

}  // namespace longstride
