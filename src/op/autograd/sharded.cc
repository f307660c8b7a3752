// cp_attention in C++: what ranks agree on before, and the gradient. exchanges.h has what runs between.
#include <ATen/Functions.h>
#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <functional>

#include "core/json.h"
#include "core/refuse.h"
#include "longstride/parallel.h"
#include "op/autograd/exchanges.h"
#include "op/autograd/pieces.h"
#include "op/autograd/tensor.h"
#include "op/checks.h"

namespace longstride {
namespace {

using at::Tensor;
using op::autograd::Pieces;
using op::autograd::size_of;
using op::autograd::Turn;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Kept for the backward.
struct RankCall : torch::CustomClassHolder, op::autograd::ShardedCall {};
using RankCallPointer = c10::intrusive_ptr<RankCall>;

core::Json json_of(const std::string& text) { return text; }
core::Json json_of(double number) { return number; }
core::Json json_of(bool set) { return set; }
core::Json json_of(const c10::SymInt& n) { return n.expect_int(); }
core::Json json_of(const Tensor& list) {
  const Tensor of_bits = list.scalar_type() == at::kFloat ? list.contiguous().view(at::kInt) : list;
  const Tensor flat = of_bits.to(at::kCPU, at::kLong).contiguous().view({-1});
  return std::vector<int64_t>(flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel());
}
template <class Value>
core::Json json_of(const std::optional<Value>& value) {
  return value ? json_of(*value) : core::Json();
}

std::string fingerprint(const Tensor& list) {
  const Tensor own = list.contiguous();
  const std::string_view bytes(static_cast<const char*>(own.const_data_ptr()), own.nbytes());
  return fmt::format("{} {:016x}", op::checks::shape(op::view_of(own)), std::hash<std::string_view>()(bytes));
}

// What ranks must have alike.
std::string described(const RankCall& of, const Tensor& q, const Tensor& k, const std::string& exchange,
                      bool differentiated) {
  core::Json all = {{"boundaries", json_of(of.boundaries)},
                    {"layout", of.layout},
                    {"exchange", exchange},
                    {"batch", q.size(0)},
                    {"heads of q", q.size(2)},
                    {"heads of k", k.size(2)},
                    {"dim", q.size(3)},
                    {"dtype", at::toString(q.scalar_type())},
                    {"device", c10::DeviceTypeName(q.device().type(), true)},
                    {"gradient", differentiated}};
  op::autograd::Call::fields(of.call, [&](const char* name, const char*, const auto& field) {
    if (name == std::string_view("dropout_seed")) return;  // the first rank's is taken
    const bool of_gates = name == std::string_view("gates"), of_blocks = name == std::string_view("blocks");
    if (of_blocks && of.call.blocks) {  // there may be millions
      all[name] = fingerprint(*of.call.blocks);
    } else {
      all[name] = of_gates ? core::Json(of.call.gates.has_value()) : json_of(field);  // gates are all 1
    }
  });
  return all.dump();
}

void check_tensors(const Tensor& q, const Tensor& k, const Tensor& v, const RankGroup& group) {
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"q", q}, {"k", k}, {"v", v}}) {
    if (!t.defined()) core::refuse(name, "must be a tensor", "an undefined tensor");
    op::check_dense(name, op::view_of(t));
    op::autograd::check_device(name, t, group);
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
    check_tensors(q, k, v, group);
    const at::DeviceType device = q.device().type();
    if (at::autocast::is_autocast_enabled(device)) {
      const at::ScalarType dtype = at::autocast::get_autocast_dtype(device);
      for (Tensor* t : {&q, &k, &v}) *t = at::autocast::cached_cast(dtype, *t, device);
    }
    made->call = op::autograd::make_call(pattern, options);
    op::checks::check_sharded(made->call, "in cp_attention");
    if (auto& slopes = made->call.alibi_slopes) {
      op::checks::check_gradient_of_slopes(slopes->requires_grad());
      slopes = slopes->clone();  // the backward has them as they are now
    }
    auto& gates = made->call.gates;
    gates = op::given(gates) ? std::optional(gates->detach()) : std::nullopt;
    for (auto* list : {&made->call.blocks, &made->call.cu_seqlens, &made->call.lengths})
      if (*list) *list = (*list)->cpu();  // a rank's plan is made on the host
    made->group = group;
    made->layout = options.sharding.layout;
    const std::vector<int64_t>& cuts = options.sharding.boundaries;
    made->boundaries =
        at::tensor(cuts.empty() ? std::vector<int64_t>{0, q.size(1) * group->getSize()} : cuts, at::kLong);
    const auto [rows, joined] = made->run<std::tuple<Tensor, bool>>("longstride::cp_counts", q, k, v);
    const auto* const counts = rows.const_data_ptr<int64_t>();
    made->sent.assign(counts, counts + group->getSize());
    made->received.assign(counts + group->getSize(), counts + 2 * group->getSize());
    made->joined = joined;
    const auto [steps, heads] =
        made->run<std::tuple<Tensor, int64_t>>("longstride::cp_exchange", options.exchange, q, k, v);
    made->steps.assign(steps.const_data_ptr<int64_t>(), steps.const_data_ptr<int64_t>() + steps.numel());
    made->heads_among = heads;
    differentiated = at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad() ||
                                                    (op::given(options.gates) && options.gates->requires_grad()));
    made->description = described(*made, q, k, options.exchange, differentiated);
  } catch (const std::invalid_argument& refused) {
    error = Error(refused.what());
  } catch (const c10::ValueError& refused) {  // as Errors of a kernel pass the dispatcher
    error = Error(refused.what_without_backtrace());
  }
  int64_t rows = 0;
  for (const int64_t n : made->sent) rows += n;
  const int64_t of_all = turn.agree(made->description, error, rows);
  if (options.exchange == "none" && of_all > 0)
    core::refuse("exchange",
                 fmt::format("must not be none where queries see keys of other ranks, {} rows in all", of_all), "none",
                 "take direct or auto, or shards that segments end on");
  made->travels = of_all > 0 || made->heads_among > 1;
  return made;
}

struct RankAttention : torch::autograd::Function<RankAttention> {
  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                               const std::optional<Tensor>& gates, const RankCallPointer& call, Turn* turn) {
    (void)gates;  // an argument of its own, since a gradient flows to it; read from the call
    auto [out, lse, saved] = op::autograd::attend(q, k, v, *call, *turn);
    context->save_for_backward(std::move(saved));
    context->saved_data["call"] = c10::IValue::make_capsule(call);
    context->saved_data["out"] = out.sizes().vec();
    context->saved_data["dtype"] = out.scalar_type();
    context->saved_data["device"] = out.device();
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto call = c10::static_intrusive_pointer_cast<RankCall>(context->saved_data["call"].toCapsule());
    Turn turn("cp_attention backward", call->group);
    turn.agree(call->description, std::nullopt, 0);
    // Without a gradient too: other ranks may have one, and wait for this one's part.
    const Tensor d_out = grads[0].defined() ? grads[0]
                                            : at::zeros(context->saved_data["out"].toIntVector(),
                                                        at::dtype(context->saved_data["dtype"].toScalarType())
                                                            .device(context->saved_data["device"].toDevice()));
    const std::optional<Tensor> d_lse = grads[1].defined() ? std::optional(grads[1]) : std::nullopt;
    const bool with_gates = call->call.gates && context->needs_input_grad(3);
    op::autograd::ShardedCall wanted = *call;
    if (!with_gates) wanted.call.gates = std::nullopt;
    variable_list found = op::autograd::attend_backward(d_out, d_lse, context->get_saved_variables(), wanted, turn);
    found.resize(6);
    return found;
  }
};

}  // namespace

AttentionResult cp_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Pattern& pattern,
                             const RankGroup& group, const ShardedOptions& options) {
  if (size_of(group) == 1) {
    if (const auto& name = options.exchange; name != "auto" && name != "none" && name != "direct" && name != "ring")
      core::refuse("exchange", "must be auto, none, direct or ring on one rank", name);
    check_tensors(q, k, v, group);
    const Pieces whole(options.sharding, 1, q.size(1));
    if (whole.end != q.size(1))
      core::refuse("boundaries", fmt::format("must end with the {} rows of q", q.size(1)), whole.end);
    op::checks::check_sharded(op::autograd::make_call(pattern, options), "in cp_attention");
    return attention(q, k, v, pattern, options);
  }
  Turn turn("cp_attention", group);
  Tensor queries = q, keys = k, values = v;
  const RankCallPointer call = agreed(turn, group, queries, keys, values, pattern, options);
  const variable_list results = RankAttention::apply(queries, keys, values, options.gates, call, &turn);
  return {results[0], results[1]};
}

}  // namespace longstride
