// What LibTorch's full ABI adds to the operator of op/schema.cc: a kernel for each dispatch key that the stable ABI has
// no words for. Every kernel takes the arguments after q, k, v as one Call.
#include <torch/library.h>

#include "op/autograd/handed.h"
#include "op/autograd/kernels.h"
#include "op/autograd/results.h"
#include "op/checks.h"
#include "op/schema.h"

namespace longstride::op::autograd {
namespace {

using at::Tensor;
using MaybeTensor = const std::optional<Tensor>&;
// Functions of the operators' signatures around the kernels.
template <class Arguments>
struct Unpack;
template <class... Owner, class... Field>
struct Unpack<std::tuple<Argument<Owner, Field>...>> {
  template <Outputs (*kernel)(const Tensor&, const Tensor&, const Tensor&, const Call&)>
  static Outputs forward(const Tensor& q, const Tensor& k, const Tensor& v, typename Handed<Field>::Type... rest) {
    return kernel(q, k, v, Call::of(std::forward<typename Handed<Field>::Type>(rest)...));
  }
  template <InputGrads (*kernel)(const BackwardInputs&, const Call&)>
  static InputGrads backward(const Tensor& d_out, MaybeTensor d_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& out, const Tensor& lse, typename Handed<Field>::Type... rest) {
    return kernel(BackwardInputs{d_out, d_lse, q, k, v, out, lse},
                  Call::of(std::forward<typename Handed<Field>::Type>(rest)...));
  }
};
using Unpacked = Unpack<decltype(Call::arguments())>;

template <class Signature>
auto handle_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

// Its tensors are of a dispatch key that only what is no dense array has.
[[noreturn]] void not_refused() { TORCH_INTERNAL_ASSERT(false, "a dense tensor of a key for those that are none"); }

}  // namespace

Outputs dispatch_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  static const auto handle = handle_of<decltype(Unpacked::forward<forward_meta>)>(kAttention);
  return std::apply([&](auto&&... rest) { return handle.call(q, k, v, rest...); }, arguments_of(call));
}

InputGrads dispatch_backward(const BackwardInputs& in, const Call& call) {
  static const auto handle = handle_of<decltype(Unpacked::backward<backward_meta>)>(kAttentionBackward);
  return std::apply(
      [&](auto&&... rest) { return handle.call(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, rest...); },
      arguments_of(call));
}

Outputs forward_refused(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  check_forward(views_of(q, k, v), call);
  not_refused();
}

InputGrads backward_refused(const BackwardInputs& in, const Call& call) {
  check_backward(views_of(in.q, in.k, in.v), in, call);
  not_refused();
}

TORCH_LIBRARY_FRAGMENT(longstride, m) {
  using at::DispatchKey;
  install_memory();
  const auto add = [&](DispatchKey key, auto* forward, auto* backward) {
    m.impl("attention", torch::dispatch(key, forward));
    m.impl("attention_backward", torch::dispatch(key, backward));
  };
  // So that these get our refusal, which names what can be done, and not the dispatcher's.
  for (const DispatchKey key : {DispatchKey::SparseCPU, DispatchKey::SparseCUDA, DispatchKey::SparseCsrCPU,
                                DispatchKey::SparseCsrCUDA, DispatchKey::QuantizedCPU, DispatchKey::QuantizedCUDA,
                                DispatchKey::NestedTensorCPU, DispatchKey::NestedTensorCUDA, DispatchKey::MkldnnCPU})
    add(key, &Unpacked::forward<forward_refused>, &Unpacked::backward<backward_refused>);
  add(DispatchKey::Meta, &Unpacked::forward<forward_meta>, &Unpacked::backward<backward_meta>);
  add(DispatchKey::Autograd, &Unpacked::forward<forward_autograd>, &Unpacked::backward<backward_autograd>);
  for (const DispatchKey key : {DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA})
    m.impl("attention", torch::dispatch(key, &Unpacked::forward<forward_autocast>));
}

}  // namespace longstride::op::autograd
