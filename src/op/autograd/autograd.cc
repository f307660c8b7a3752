// The gradient of a call: saves q, k, v, out, lse and the call's fields, and asks the backward operator, so that a
// traced graph holds both operators. The backward finds its plan by key; nothing else is kept.
#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/refuse.h"
#include "op/autograd/kernels.h"
#include "op/checks.h"

namespace longstride::op::autograd {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using SavedData = decltype(AutogradContext::saved_data);

template <class Field>
constexpr bool kIsTensor = std::is_same_v<Field, std::optional<Tensor>>;

c10::IValue value_of(const std::optional<c10::SymInt>& n) { return n ? c10::IValue(*n) : c10::IValue(); }
template <class Field>
c10::IValue value_of(const Field& field) {
  return field;
}

void take(const c10::IValue& value, std::string& field) { field = value.toStringRef(); }
void take(const c10::IValue& value, std::optional<double>& field) { field = value.toOptional<double>(); }
void take(const c10::IValue& value, double& field) { field = value.toDouble(); }
void take(const c10::IValue& value, bool& field) { field = value.toBool(); }
void take(const c10::IValue& value, std::optional<c10::SymInt>& field) {
  if (!value.isNone()) field = value.toSymInt();
}

// Tensors go where autograd watches for changes, behind those that are there; the rest into the data.
void save(const Call& call, variable_list& tensors, SavedData& data) {
  Call::fields(call, [&]<class Field>(const char* name, const char*, const Field& field) {
    if constexpr (kIsTensor<Field>)
      tensors.push_back(field.value_or(Tensor()));
    else
      data[name] = value_of(field);
  });
}

Call load(const variable_list& tensors, size_t first, SavedData& data) {
  Call call;
  Call::fields(call, [&]<class Field>(const char* name, const char*, Field& field) {
    if constexpr (kIsTensor<Field>) {
      const Tensor& saved = tensors[first++];
      if (saved.defined()) field = saved;
    } else {
      take(data[name], field);
    }
  });
  return call;
}

struct Attention : torch::autograd::Function<Attention> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext* context, const Tensor& q, const Tensor& k, const Tensor& v,
                               const std::optional<Tensor>& gates, const Call& call) {
    (void)gates;  // an argument of its own, since a gradient flows to it; read from the call
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [out, lse] = dispatch_forward(q, k, v, call);
    variable_list tensors = {q, k, v, out, lse};
    save(call, tensors, context->saved_data);
    context->save_for_backward(std::move(tensors));
    // A gradient that nobody gives stays undefined: most calls use out alone, and lse costs nothing then.
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Tensor &d_out = grads[0], &d_lse = grads[1];
    if (!d_out.defined() && !d_lse.defined()) return {Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
    const variable_list saved = context->get_saved_variables();
    Call call = load(saved, 5, context->saved_data);
    if (call.gates && !context->needs_input_grad(3)) call.gates = std::nullopt;
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
    core::refuse("attention", "can be differentiated once", "a second derivative",
                 "for a double backward compute the attention with torch's own operators");
  }
};

// Autograd wants to know sizes before it records a call, which only an array has.
void check_all_dense(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  checks::each_tensor(views_of(q, k, v), call, [](const char* name, const auto& t) { check_dense(name, t); });
}

void check_all_dense(const BackwardInputs& in, const Call& call) {
  check_all_dense(in.q, in.k, in.v, call);
  check_dense("d_out", view_of(in.d_out));
  check_dense("out", view_of(in.out));
  check_dense("lse", view_of(in.lse));
  if (given(in.d_lse)) check_dense("d_lse", view_of(*in.d_lse));
}

}  // namespace

Outputs forward_autograd(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  check_all_dense(q, k, v, call);
  checks::check_gradient_of_slopes(given(call.alibi_slopes) && call.alibi_slopes->requires_grad());
  const variable_list results = Attention::apply(q, k, v, call.gates, call);
  return {results[0], results[1]};
}

InputGrads backward_autograd(const BackwardInputs& in, const Call& call) {
  check_all_dense(in, call);
  const variable_list results = Gradient::apply(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, call);
  return {results[0], results[1], results[2], results[3]};
}

}  // namespace longstride::op::autograd
