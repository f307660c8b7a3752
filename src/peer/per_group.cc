// Dense attention and the group-by-group LongNet algorithm on torch's operators (peers.h).
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "peer/peers.h"

namespace longstride::peer {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where the rows of one group lie: for head h the rows offsets[h] + i * rate of every segment.
struct Layout {
  int64_t batch, segments, samples, rate, heads, dim;
  std::vector<int64_t> offsets;  // per query head
};

// The rows that a head samples, as a view of a dense tensor [batch, len, its heads, dim]: [batch, segments, samples,
// dim].
Tensor sampled(const Tensor& dense, const Layout& layout, int64_t offset, int64_t head) {
  return dense.view({layout.batch, layout.segments, layout.samples, layout.rate, dense.size(2), dense.size(3)})
      .select(3, offset)
      .select(3, head);
}

// The same of a statistic [batch, heads, len]: [batch, segments, samples].
Tensor sampled_stat(const Tensor& dense, const Layout& layout, int64_t head) {
  return dense.view({layout.batch, layout.heads, layout.segments, layout.samples, layout.rate})
      .select(4, layout.offsets[static_cast<size_t>(head)])
      .select(1, head);
}

Tensor of_head(const Tensor& gathered, const Layout& layout, int64_t head) {
  return gathered.unflatten(0, {layout.batch, layout.segments}).select(2, head);
}

// Dense [batch, len, kv_heads, dim] -> [batch * segments, heads, samples, dim], contiguous.
Tensor gather(const Tensor& dense, const Layout& layout) {
  const Tensor result =
      at::empty({layout.batch * layout.segments, layout.heads, layout.samples, layout.dim}, dense.options());
  const int64_t share = layout.heads / dense.size(2);
  for (int64_t h = 0; h < layout.heads; ++h)
    of_head(result, layout, h).copy_(sampled(dense, layout, layout.offsets[static_cast<size_t>(h)], h / share));
  return result;
}

// What a backward needs besides tensors.
struct Layouts : torch::CustomClassHolder {
  explicit Layouts(std::vector<Layout> given) : all(std::move(given)) {}
  std::vector<Layout> all;
};

void keep(AutogradContext* ctx, std::vector<Layout> layouts) {
  ctx->saved_data["layouts"] = c10::IValue::make_capsule(c10::make_intrusive<Layouts>(std::move(layouts)));
}

std::vector<Layout> kept(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Layouts>(ctx->saved_data["layouts"].toCapsule())->all;
}

// Autograd of the gather, so that the backward writes each row once and builds no dense tensor per head.
struct Gather : torch::autograd::Function<Gather> {
  static Tensor forward(AutogradContext* ctx, const Tensor& dense, const Layout& layout) {
    keep(ctx, {layout});
    ctx->saved_data["shape"] = dense.sizes().vec();
    return gather(dense, layout);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const std::vector<int64_t> shape = ctx->saved_data["shape"].toIntVector();
    const Layout layout = kept(ctx).front();
    const int64_t share = layout.heads / shape[2];
    const Tensor result =
        layout.rate == 1 && share == 1 ? at::empty(shape, grads[0].options()) : at::zeros(shape, grads[0].options());
    for (int64_t h = 0; h < layout.heads; ++h) {
      const Tensor to = sampled(result, layout, layout.offsets[static_cast<size_t>(h)], h / share);
      if (share == 1) {
        to.copy_(of_head(grads[0], layout, h));
      } else {
        to.add_(of_head(grads[0], layout, h));
      }
    }
    return {result, Tensor()};
  }
};

struct Mixed {
  Tensor out, lse;
  std::vector<Tensor> weights;  // of each group, [batch * segments, heads, samples, 1], in the dtype of out
};

Mixed mix(at::TensorList outs, at::TensorList lses, const std::vector<Layout>& layouts, int64_t len) {
  const Layout& any = layouts.front();
  const auto stats = lses.front().options();
  const Tensor top = at::full({any.batch, any.heads, len}, -std::numeric_limits<float>::infinity(), stats);
  const Tensor sum = at::zeros({any.batch, any.heads, len}, stats);
  for (size_t g = 0; g < outs.size(); ++g) {
    for (int64_t h = 0; h < any.heads; ++h) {
      Tensor rows = sampled_stat(top, layouts[g], h);
      rows.clamp_min_(of_head(lses[g], layouts[g], h));
    }
  }
  std::vector<Tensor> shares;
  for (size_t g = 0; g < outs.size(); ++g) {
    shares.push_back(at::empty(lses[g].sizes(), stats));
    for (int64_t h = 0; h < any.heads; ++h) {
      const Tensor share = of_head(shares[g], layouts[g], h);
      share.copy_(of_head(lses[g], layouts[g], h)).sub_(sampled_stat(top, layouts[g], h)).exp_();
      sampled_stat(sum, layouts[g], h).add_(share);
    }
  }
  Mixed result;
  const bool whole = any.rate == 1;  // the first group writes every row
  result.out = whole ? at::empty({any.batch, len, any.heads, any.dim}, outs.front().options())
                     : at::zeros({any.batch, len, any.heads, any.dim}, outs.front().options());
  for (size_t g = 0; g < outs.size(); ++g) {
    for (int64_t h = 0; h < any.heads; ++h) of_head(shares[g], layouts[g], h).div_(sampled_stat(sum, layouts[g], h));
    result.weights.push_back(shares[g].to(outs[g].scalar_type()).unsqueeze(-1));
    for (int64_t h = 0; h < any.heads; ++h) {
      Tensor rows = sampled(result.out, layouts[g], layouts[g].offsets[static_cast<size_t>(h)], h);
      const Tensor out = of_head(outs[g], layouts[g], h), weight = of_head(result.weights[g], layouts[g], h);
      if (whole && g == 0) {
        rows.copy_(out).mul_(weight);
      } else {
        rows.addcmul_(out, weight);
      }
    }
  }
  result.lse = sum.log_().add_(top);
  return result;
}

// Scatter and mix as one node: out depends on the groups' outputs through constant weights.
struct Mix : torch::autograd::Function<Mix> {
  static variable_list forward(AutogradContext* ctx, const std::vector<Layout>& layouts, int64_t len,
                               at::TensorList outs, at::TensorList lses) {
    Mixed mixed = mix(outs, lses, layouts, len);
    ctx->save_for_backward(mixed.weights);
    keep(ctx, layouts);
    ctx->mark_non_differentiable({mixed.lse});
    return {mixed.out, mixed.lse};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const Tensor d_out = grads[0].contiguous();
    const variable_list weights = ctx->get_saved_variables();
    const std::vector<Layout> layouts = kept(ctx);
    variable_list result(2 + 2 * weights.size());
    for (size_t g = 0; g < weights.size(); ++g) result[2 + g] = gather(d_out, layouts[g]).mul_(weights[g]);
    return result;
  }
};

}  // namespace

PeerResult dense_sdpa(const Tensor& q, const Tensor& k, const Tensor& v, bool causal) {
  const Tensor out = at::scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), {}, 0.0,
                                                      causal, std::nullopt, q.size(2) != k.size(2));
  return {out.transpose(1, 2), {}};
}

std::string refusal(const Groups& groups, int64_t len) {
  for (size_t g = 0; g < groups.segments.size(); ++g) {
    const int64_t segment = std::min(groups.segments[g], len), rate = groups.rates[g];
    if (segment == 0 || len % segment != 0) return fmt::format("segment {} does not divide len {}", segment, len);
    if (segment % rate != 0) return fmt::format("segment {} is no multiple of its rate {}", segment, rate);
  }
  return "";
}

PeerResult per_group(const Tensor& q, const Tensor& k, const Tensor& v, const Groups& groups) {
  const int64_t len = q.size(1), heads = q.size(2);
  if (const std::string why = refusal(groups, len); !why.empty())
    throw std::invalid_argument("per_group cannot run these groups: " + why);
  std::vector<Layout> layouts;
  variable_list outs, lses;
  for (size_t g = 0; g < groups.segments.size(); ++g) {
    const int64_t segment = std::min(groups.segments[g], len), rate = groups.rates[g];
    const Layout& layout = layouts.emplace_back(
        Layout{q.size(0), len / segment, segment / rate, rate, heads, q.size(3), groups.offsets[g]});
    auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
        Gather::apply(q, layout), Gather::apply(k, layout), Gather::apply(v, layout), 0.0, groups.causal);
    outs.push_back(std::move(out));
    lses.push_back(std::move(lse));
  }
  const variable_list mixed = Mix::apply(layouts, len, at::TensorList(outs), at::TensorList(lses));
  return {mixed[0], mixed[1]};
}

}  // namespace longstride::peer
