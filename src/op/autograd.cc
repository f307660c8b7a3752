// The gradient of a call: saves q, k, v, out, lse (and the dropout seed) and asks the backward operator, so that a
// traced graph holds both operators. The backward finds its plan by key; nothing else is kept.
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/refuse.h"
#include "op/kernels.h"

namespace longstride::op {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using SavedData = decltype(AutogradContext::saved_data);

// A list of SymInts as an IValue and back.
c10::IValue pack(const std::optional<std::vector<c10::SymInt>>& list) {
  if (!list) return {};
  return c10::IValue(c10::SymIntArrayRef(*list));
}
std::optional<std::vector<c10::SymInt>> unpack(const c10::IValue& value) {
  if (value.isNone()) return std::nullopt;
  return value.toSymIntVector();
}

void save(const Call& call, SavedData& data) {
  data["pattern_json"] = call.pattern_json;
  data["segment_lengths"] = call.segment_lengths;
  data["dilation_rates"] = call.dilation_rates;
  data["causal"] = call.causal;
  data["scale"] = call.scale;
  data["head_offset"] = call.head_offset;
  data["offsets"] = call.offsets;
  data["mixing"] = call.mixing;
  data["average"] = call.average;
  data["padding"] = call.padding;
  data["cu_seqlens"] = pack(call.cu_seqlens);
  data["lengths"] = pack(call.lengths);
  data["query_start"] = call.query_start ? c10::IValue(*call.query_start) : c10::IValue();
  data["dropout_p"] = call.dropout_p;
  data["deterministic"] = call.deterministic;
}

std::optional<Tensor> if_defined(const Tensor& t) { return t.defined() ? std::optional<Tensor>(t) : std::nullopt; }

Call load(SavedData& data, const Tensor& dropout_seed, const Tensor& blocks, const Tensor& gates) {
  Call call;
  if (!data["pattern_json"].isNone()) call.pattern_json = data["pattern_json"].toStringRef();
  call.blocks = if_defined(blocks);
  call.gates = if_defined(gates);
  call.segment_lengths = data["segment_lengths"].toIntVector();
  call.dilation_rates = data["dilation_rates"].toIntVector();
  call.causal = data["causal"].toBool();
  call.scale = data["scale"].toOptional<double>();
  call.head_offset = data["head_offset"].toStringRef();
  if (!data["offsets"].isNone()) call.offsets = data["offsets"].toIntVector();
  call.mixing = data["mixing"].toStringRef();
  call.average = data["average"].toBool();
  call.padding = data["padding"].toStringRef();
  call.cu_seqlens = unpack(data["cu_seqlens"]);
  call.lengths = unpack(data["lengths"]);
  if (!data["query_start"].isNone()) call.query_start = data["query_start"].toSymInt();
  call.dropout_p = data["dropout_p"].toDouble();
  call.dropout_seed = if_defined(dropout_seed);
  call.deterministic = data["deterministic"].toBool();
  return call;
}

struct Attention : torch::autograd::Function<Attention> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& gates, const Call& call) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, lse] = dispatch_forward(q, k, v, call);
    context->save_for_backward({q, k, v, out, lse, call.dropout_seed.value_or(Tensor()), call.blocks.value_or(Tensor()),
                                call.gates ? gates : Tensor()});
    save(call, context->saved_data);
    // A gradient that nobody gives stays undefined: most calls use out alone, and lse costs nothing then.
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Tensor &d_out = grads[0], &d_lse = grads[1];
    if (!d_out.defined() && !d_lse.defined()) return {Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
    const variable_list saved = context->get_saved_variables();
    Call call = load(context->saved_data, saved[5], saved[6], saved[7]);
    if (!context->needs_input_grad(3)) call.gates = std::nullopt;
    const BackwardInputs in{d_out.defined() ? d_out : at::zeros_like(saved[3]),
                            d_lse.defined() ? std::optional<Tensor>(d_lse) : std::nullopt,
                            saved[0],
                            saved[1],
                            saved[2],
                            saved[3],
                            saved[4]};
    auto [dq, dk, dv, d_gates] = dispatch_backward(in, call);
    return {dq, dk, dv, call.gates ? d_gates : Tensor(), Tensor()};
  }
};

// First derivatives taken with create_graph are right; what is refused is to differentiate them.
struct Gradient : torch::autograd::Function<Gradient> {
  static variable_list forward(AutogradContext* context, const Tensor& d_out, const std::optional<Tensor>& d_lse,
                               const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                               const Call& call) {
    (void)context;
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [dq, dk, dv, d_gates] = dispatch_backward({d_out, d_lse, q, k, v, out, lse}, call);
    // Outputs of a function must be defined.
    return {dq, dk, dv, d_gates.defined() ? d_gates : at::empty({0}, lse.options())};
  }

  static variable_list backward(AutogradContext*, const variable_list&) {
    core::refuse("dilated_attention", "can be differentiated once", "a second derivative",
                 "for a double backward compute the attention with torch's own operators");
  }
};

}  // namespace

Outputs forward_autograd(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  // Inputs of a function must be defined: an empty tensor stands for no gates.
  const bool gated = call.gates && call.gates->defined();
  const Tensor gates = gated ? *call.gates : at::empty({0}, q.options().requires_grad(false));
  const variable_list results = Attention::apply(q, k, v, gates, call);
  return {results[0], results[1]};
}

InputGrads backward_autograd(const BackwardInputs& in, const Call& call) {
  const variable_list results = Gradient::apply(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, call);
  return {results[0], results[1], results[2], results[3]};
}

}  // namespace longstride::op
