// cp_attention in C++: a rank's kernels (op/parallel) between the exchanges, and the gradient. Rows travel while the
// shard attends to its own keys, forward and back.
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/json.h"
#include "core/refuse.h"
#include "longstride/parallel.h"
#include "op/autograd/ranks.h"
#include "op/autograd/tensor.h"
#include "op/checks.h"

namespace longstride {
namespace {

using at::Tensor;
using op::autograd::Turn;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What follows q, k and v in the operators of a rank, and what the exchange is told; kept for the backward.
struct RankCall : torch::CustomClassHolder {
  op::autograd::Call call;
  Tensor boundaries;
  std::string layout;
  RankGroup group;
  std::string description;
  std::vector<int64_t> sent, received;  // rows that go to each rank, and that come from each
  bool joined = false;                  // parts of a row are joined, for which 16 bits are too few
  bool travels = false;                 // whether any rank sends any row

  // The operator longstride::name of these tensors, q, k and v the last of them, and this call.
  template <class Result, class... Tensors>
  Result run(const char* name, const Tensors&... tensors) const {
    using Maybe = const std::optional<Tensor>&;
    using Signature = Result(const Tensors&..., std::string_view, Maybe, Maybe, Maybe, std::optional<double>,
                             const Tensor&, std::string_view, int64_t, int64_t, int64_t);
    const at::AutoDispatchBelowADInplaceOrView below;
    return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>().call(
        tensors..., call.pattern, call.blocks, call.cu_seqlens, call.lengths, call.scale, boundaries, layout,
        group->getSize(), group->getRank(), -1);
  }

  Tensor wide(const Tensor& t) const { return joined && t.scalar_type() != at::kDouble ? t.to(at::kFloat) : t; }
};
using RankCallPointer = c10::intrusive_ptr<RankCall>;

Tensor numbers_tensor(const std::vector<int64_t>& numbers) {
  return at::tensor(numbers, at::TensorOptions().dtype(at::kLong));
}

core::Json json_of(const std::optional<Tensor>& list) {
  if (!list) return nullptr;
  const Tensor flat = list->to(at::kLong).contiguous().view({-1});
  return std::vector<int64_t>(flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel());
}

// What ranks must have alike.
std::string described(const RankCall& of, const Tensor& q, const Tensor& k, bool differentiated) {
  const op::autograd::Call& call = of.call;
  return core::Json{{"pattern", call.pattern},
                    {"blocks", json_of(call.blocks)},
                    {"cu_seqlens", json_of(call.cu_seqlens)},
                    {"lengths", json_of(call.lengths)},
                    {"scale", call.scale ? core::Json(*call.scale) : core::Json()},
                    {"boundaries", json_of(of.boundaries)},
                    {"layout", of.layout},
                    {"batch", q.size(0)},
                    {"heads of q", q.size(2)},
                    {"heads of k", k.size(2)},
                    {"dim", q.size(3)},
                    {"dtype", at::toString(q.scalar_type())},
                    {"gradient", differentiated}}
      .dump();
}

void check_tensors(const Tensor& q, const Tensor& k, const Tensor& v) {
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"q", q}, {"k", k}, {"v", v}}) {
    if (!t.defined()) core::refuse(name, "must be a tensor", "an undefined tensor");
    op::check_dense(name, op::view_of(t));
    if (!t.is_cpu())
      core::refuse(name, "must be on the CPU where the sequence lies in shards", t.device().str(),
                   "move it with .cpu()");
    if (t.dim() != 4)
      core::refuse(name, "must have the 4 dimensions [batch, rows, heads, dim]", op::checks::shape(op::view_of(t)));
  }
}

RankCallPointer agreed(Turn& turn, const RankGroup& group, Tensor& q, Tensor& k, Tensor& v, const Pattern& pattern,
                       const ShardedOptions& options) {
  auto made = c10::make_intrusive<RankCall>();
  std::optional<Error> error;
  bool differentiated = false;
  try {
    check_tensors(q, k, v);
    if (at::autocast::is_autocast_enabled(at::kCPU)) {
      const at::ScalarType dtype = at::autocast::get_autocast_dtype(at::kCPU);
      for (Tensor* t : {&q, &k, &v}) *t = at::autocast::cached_cast(dtype, *t, at::kCPU);
    }
    AttentionOptions given;
    static_cast<CallOptions&>(given) = options;
    given.scale = options.scale;
    made->call = op::autograd::make_call(pattern, given);
    made->group = group;
    made->layout = options.sharding.layout;
    const std::vector<int64_t>& cuts = options.sharding.boundaries;
    made->boundaries = numbers_tensor(cuts.empty() ? std::vector<int64_t>{0, q.size(1) * group->getSize()} : cuts);
    const auto [rows, joined] = made->run<std::tuple<Tensor, bool>>("longstride::cp_counts", q, k, v);
    const auto* const counts = rows.const_data_ptr<int64_t>();
    made->sent.assign(counts, counts + group->getSize());
    made->received.assign(counts + group->getSize(), counts + 2 * group->getSize());
    made->joined = joined;
    differentiated = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad());
    made->description = described(*made, q, k, differentiated);
  } catch (const std::invalid_argument& refused) {
    error = Error(refused.what());
  } catch (const c10::ValueError& refused) {  // as Errors of a kernel pass the dispatcher
    error = Error(refused.what_without_backtrace());
  }
  int64_t rows = 0;
  for (const int64_t n : made->sent) rows += n;
  made->travels = turn.agree(made->description, error, rows) > 0;
  return made;
}

struct RankAttention : torch::autograd::Function<RankAttention> {
  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                               const RankCallPointer& call, Turn* turn) {
    Turn::Rows posted;
    if (call->travels)
      posted = turn->post(call->run<Tensor>("longstride::cp_pack", q, k, v), call->sent, call->received);
    const Tensor wq = call->wide(q), wk = call->wide(k), wv = call->wide(v);
    auto [out, lse] = call->run<std::tuple<Tensor, Tensor>>("longstride::cp_forward_pieces", wq, wk, wv);
    const Tensor received = call->travels ? posted.wait() : at::empty({0, 2 * q.size(3)}, q.options());
    const Tensor keys =
        call->run<Tensor>("longstride::cp_forward_gathered", received.to(wq.scalar_type()), out, lse, wq, wk, wv);
    out = out.to(q.scalar_type());
    context->save_for_backward({q, k, v, out, lse, keys});
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto call = c10::static_intrusive_pointer_cast<RankCall>(context->saved_data["call"].toCapsule());
    const variable_list saved = context->get_saved_variables();
    const at::ScalarType dtype = saved[0].scalar_type();
    Turn turn("cp_attention backward", call->group);
    turn.agree(call->description, std::nullopt, 0);
    // Without a gradient too: other ranks may have one, and wait for this one's part.
    const Tensor d_out = call->wide(grads[0].defined() ? grads[0] : at::zeros_like(saved[3]));
    const std::optional<Tensor> d_lse = grads[1].defined() ? std::optional(grads[1]) : std::nullopt;
    const Tensor q = call->wide(saved[0]), k = call->wide(saved[1]), v = call->wide(saved[2]);
    const Tensor out = call->wide(saved[3]), &lse = saved[4];
    using Three = std::tuple<Tensor, Tensor, Tensor>;
    auto [d_queries, d_keys, message] =
        call->run<Three>("longstride::cp_backward_gathered", d_out, d_lse, out, lse, saved[5], q, k, v);
    Turn::Rows posted;
    if (call->travels) posted = turn.post(message, call->received, call->sent);
    auto [dq, dk, dv] =
        call->run<Three>("longstride::cp_backward_pieces", d_out, d_lse, out, lse, d_queries, d_keys, q, k, v);
    if (call->travels) call->run<void>("longstride::cp_add_returned", posted.wait(), dk, dv, q, k, v);
    return {dq.to(dtype), dk.to(dtype), dv.to(dtype), Tensor(), Tensor()};
  }
};

// ---- shards ----

// [begin, end) of the tokens of each rank, piece by piece and rank by rank.
struct Pieces {
  Pieces(const Sharding& sharding, int64_t ranks, int64_t len) : of(static_cast<size_t>(ranks)) {
    const Tensor boundaries =
        numbers_tensor(sharding.boundaries.empty() ? std::vector<int64_t>{0, len} : sharding.boundaries);
    Tensor pieces;  // rows of [begin, end, rank]
    try {
      pieces = c10::Dispatcher::singleton()
                   .findSchemaOrThrow("longstride::cp_pieces", "")
                   .typed<Tensor(const Tensor&, std::string_view, int64_t)>()
                   .call(boundaries, sharding.layout, ranks);
    } catch (const c10::ValueError& refused) {  // as Errors of a kernel pass the dispatcher
      throw Error(refused.what_without_backtrace());
    }
    for (int64_t i = 0; i < pieces.size(0); ++i) {
      const auto* const p = pieces.const_data_ptr<int64_t>() + 3 * i;
      of[static_cast<size_t>(p[2])].emplace_back(p[0], p[1]);
    }
    end = boundaries[-1].item<int64_t>();
  }

  int64_t rows(int64_t rank) const {
    int64_t count = 0;
    for (const auto& [from, to] : of[static_cast<size_t>(rank)]) count += to - from;
    return count;
  }
  std::vector<int64_t> rows() const {
    std::vector<int64_t> all;
    for (size_t rank = 0; rank < of.size(); ++rank) all.push_back(rows(static_cast<int64_t>(rank)));
    return all;
  }

  std::vector<std::vector<std::pair<int64_t, int64_t>>> of;
  int64_t end = 0;
};

int64_t size_of(const RankGroup& group) { return group ? group->getSize() : 1; }
int64_t rank_of(const RankGroup& group) { return group ? group->getRank() : 0; }

void check_axis(const Tensor& x, int64_t& dim) {
  if (!x.defined()) core::refuse("x", "must be a tensor", "an undefined tensor");
  if (dim < -x.dim() || dim >= x.dim())
    core::refuse("dim", fmt::format("must be an axis of x, in [{}, {})", -x.dim(), x.dim()), fmt::format("{}", dim));
  if (dim < 0) dim += x.dim();
}

Tensor rows_of(const Tensor& x, const std::vector<std::pair<int64_t, int64_t>>& pieces, int64_t dim) {
  std::vector<Tensor> parts;
  for (const auto& [begin, end] : pieces) parts.push_back(x.narrow(dim, begin, end - begin));
  if (parts.size() == 1) return parts[0];
  return parts.empty() ? x.narrow(dim, 0, 0) : at::cat(parts, dim);
}

// Tokens are on dim 0, and all else goes into one dimension.
Tensor as_rows(const Tensor& x) { return x.reshape({x.size(0), c10::multiply_integers(x.sizes().slice(1))}); }

struct Whole : torch::autograd::Function<Whole> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const RankGroup& group,
                        const std::shared_ptr<const Pieces>& pieces, Turn* turn) {
    const int64_t ranks = turn->ranks();
    const Tensor sent = as_rows(x).repeat({ranks, 1});  // every rank gets all of them
    const Tensor received = turn->post(sent, std::vector<int64_t>(ranks, x.size(0)), pieces->rows()).wait();
    std::vector<int64_t> sizes = x.sizes().vec();
    sizes[0] = pieces->end;
    const Tensor whole = at::empty(sizes, x.options());
    int64_t row = 0;
    for (const auto& of_rank : pieces->of) {
      for (const auto& [begin, end] : of_rank) {
        const Tensor to = whole.narrow(0, begin, end - begin);
        to.copy_(received.narrow(0, row, end - begin).view(to.sizes()));
        row += end - begin;
      }
    }
    context->saved_data["group"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(group, pieces));
    return whole;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto held = c10::static_intrusive_pointer_cast<Held>(context->saved_data["group"].toCapsule());
    Turn turn("unshard backward", held->group);
    const std::vector<int64_t> counts = held->pieces->rows();
    const int64_t own = counts[static_cast<size_t>(turn.rank())];
    std::vector<Tensor> parts;
    for (const auto& of_rank : held->pieces->of) parts.push_back(rows_of(grads[0], of_rank, 0));
    const Tensor sent = as_rows(at::cat(parts, 0));
    const Tensor received = turn.post(sent, counts, std::vector<int64_t>(counts.size(), own)).wait();
    std::vector<int64_t> sizes = grads[0].sizes().vec();
    sizes[0] = own;
    Tensor total =
        at::zeros(sizes, grads[0].options().dtype(grads[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
    for (int64_t rank = 0; rank < turn.ranks(); ++rank) total += received.narrow(0, rank * own, own).reshape(sizes);
    return {total.to(grads[0].scalar_type()), Tensor(), Tensor(), Tensor()};
  }

 private:
  struct Held : torch::CustomClassHolder {
    Held(RankGroup g, std::shared_ptr<const Pieces> p) : group(std::move(g)), pieces(std::move(p)) {}
    RankGroup group;
    std::shared_ptr<const Pieces> pieces;
  };
};

}  // namespace

AttentionResult cp_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Pattern& pattern,
                             const RankGroup& group, const ShardedOptions& options) {
  if (size_of(group) == 1) {
    check_tensors(q, k, v);
    const Pieces whole(options.sharding, 1, q.size(1));
    if (whole.end != q.size(1))
      core::refuse("boundaries", fmt::format("must end with the {} rows of q", q.size(1)),
                   fmt::format("{}", whole.end));
    AttentionOptions given;
    static_cast<CallOptions&>(given) = options;
    given.scale = options.scale;
    return attention(q, k, v, pattern, given);
  }
  Turn turn("cp_attention", group);
  Tensor queries = q, keys = k, values = v;
  const RankCallPointer call = agreed(turn, group, queries, keys, values, pattern, options);
  const variable_list results = RankAttention::apply(queries, keys, values, call, &turn);
  return {results[0], results[1]};
}

Tensor shard_positions(const RankGroup& group, const Sharding& sharding) {
  if (sharding.boundaries.empty())
    core::refuse("boundaries", "must be given", "none", "{0, len} cuts len tokens evenly");
  const Pieces pieces(sharding, size_of(group), 0);
  std::vector<Tensor> parts = {at::empty({0}, at::kLong)};
  for (const auto& [begin, end] : pieces.of[static_cast<size_t>(rank_of(group))])
    parts.push_back(at::arange(begin, end));
  return at::cat(parts);
}

Tensor shard(const Tensor& x, const RankGroup& group, const Sharding& sharding, int64_t dim) {
  check_axis(x, dim);
  const Pieces pieces(sharding, size_of(group), x.size(dim));
  if (pieces.end != x.size(dim))
    core::refuse("boundaries", fmt::format("must end with the {} tokens of x", x.size(dim)),
                 fmt::format("{}", pieces.end));
  return rows_of(x, pieces.of[static_cast<size_t>(rank_of(group))], dim);
}

Tensor unshard(const Tensor& x, const RankGroup& group, const Sharding& sharding, int64_t dim) {
  check_axis(x, dim);
  const int64_t ranks = size_of(group);
  const auto checked = [&] {
    auto pieces = std::make_shared<const Pieces>(sharding, ranks, x.size(dim) * ranks);
    const int64_t rows = pieces->rows(rank_of(group));
    if (x.size(dim) != rows)
      core::refuse("x", fmt::format("must have the {} rows of the shard of rank {}", rows, rank_of(group)),
                   op::checks::shape(op::view_of(x)), "boundaries and layout say who holds which tokens");
    return std::shared_ptr<const Pieces>(pieces);
  };
  if (ranks == 1) return checked(), x;
  Turn turn("unshard", group);
  std::shared_ptr<const Pieces> pieces;
  std::optional<Error> error;
  std::vector<int64_t> others = x.sizes().vec();
  others.erase(others.begin() + dim);
  try {
    if (!x.is_cpu()) core::refuse("x", "must be on the CPU where the sequence lies in shards", x.device().str());
    pieces = checked();
  } catch (const Error& refused) {
    error = refused;
  }
  turn.agree(core::Json{{"dim", dim},
                        {"other sizes of x", others},
                        {"dtype", at::toString(x.scalar_type())},
                        {"boundaries", sharding.boundaries},
                        {"layout", sharding.layout}}
                 .dump(),
             error, 0);
  return Whole::apply(x.movedim(dim, 0), group, pieces, &turn).movedim(0, dim);
}

}  // namespace longstride
