// The operator and its backward: their schemas, written from the call's list of fields, and the kernels registered for
// them. Every kernel takes the arguments after q, k, v as one Call.
#include <torch/library.h>

#include <type_traits>

#include "op/kernels.h"

namespace longstride::op {
namespace {

using at::Tensor;
using MaybeTensor = const std::optional<Tensor>&;

template <class Field>
constexpr const char* schema_type() {
  if constexpr (std::is_same_v<Field, std::string>) return "str";
  if constexpr (std::is_same_v<Field, std::optional<Tensor>>) return "Tensor?";
  if constexpr (std::is_same_v<Field, std::optional<double>>) return "float?";
  if constexpr (std::is_same_v<Field, std::optional<c10::SymInt>>) return "SymInt?";
  if constexpr (std::is_same_v<Field, double>) return "float";
  if constexpr (std::is_same_v<Field, bool>) return "bool";
}

// Tensors stand before the star: torch.library registers no gradient for keyword-only ones.
std::string call_schema() {
  std::string text;
  bool starred = false;
  const Call call;
  Call::fields(call, [&]<class Field>(const std::string& name, const std::string& otherwise, const Field&) {
    const bool may_be_positional = std::is_same_v<Field, std::string> || std::is_same_v<Field, std::optional<Tensor>>;
    if (!may_be_positional && !starred) {
      text += ", *";
      starred = true;
    }
    text += std::string(", ") + schema_type<Field>() + " " + name + (otherwise.empty() ? "" : "=" + otherwise);
  });
  return text;
}

// A Call from the operator's arguments and back.
Call call_of(std::string_view pattern, MaybeTensor blocks, MaybeTensor gates, MaybeTensor cu_seqlens,
             MaybeTensor lengths, MaybeTensor dropout_seed, std::optional<double> scale,
             std::optional<c10::SymInt> query_start, double dropout_p, bool deterministic) {
  return {std::string(pattern),   blocks,    gates,        cu_seqlens, lengths, dropout_seed, scale,
          std::move(query_start), dropout_p, deterministic};
}
auto arguments(const Call& c) {
  return std::tuple<std::string_view, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor,
                    std::optional<double>, std::optional<c10::SymInt>, double, bool>(
      c.pattern, c.blocks, c.gates, c.cu_seqlens, c.lengths, c.dropout_seed, c.scale, c.query_start, c.dropout_p,
      c.deterministic);
}

// Functions of the operators' signatures around the kernels.
template <class Arguments>
struct Unpack;
template <class... Rest>
struct Unpack<Call(Rest...)> {
  template <Outputs (*kernel)(const Tensor&, const Tensor&, const Tensor&, const Call&)>
  static Outputs forward(const Tensor& q, const Tensor& k, const Tensor& v, Rest... rest) {
    return kernel(q, k, v, call_of(std::forward<Rest>(rest)...));
  }
  template <InputGrads (*kernel)(const BackwardInputs&, const Call&)>
  static InputGrads backward(const Tensor& d_out, MaybeTensor d_lse, const Tensor& q, const Tensor& k, const Tensor& v,
                             const Tensor& out, const Tensor& lse, Rest... rest) {
    return kernel(BackwardInputs{d_out, d_lse, q, k, v, out, lse}, call_of(std::forward<Rest>(rest)...));
  }
};
using Unpacked = Unpack<decltype(call_of)>;

template <class Signature>
auto handle_of(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

}  // namespace

Outputs dispatch_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  static const auto handle = handle_of<decltype(Unpacked::forward<forward_device>)>("longstride::attention");
  return std::apply([&](auto&&... rest) { return handle.call(q, k, v, rest...); }, arguments(call));
}

InputGrads dispatch_backward(const BackwardInputs& in, const Call& call) {
  static const auto handle = handle_of<decltype(Unpacked::backward<backward_device>)>("longstride::attention_backward");
  return std::apply(
      [&](auto&&... rest) { return handle.call(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, rest...); },
      arguments(call));
}

TORCH_LIBRARY(longstride, m) {
  using at::DispatchKey;
  // The strides of q, k, v are part of the contract (dim contiguous): a compiler that lays tensors out anew must keep
  // them.
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag, at::Tag::needs_fixed_stride_order};
  const std::string forward =
                        "attention(Tensor q, Tensor k, Tensor v" + call_schema() + ") -> (Tensor out, Tensor lse)",
                    backward =
                        "attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor "
                        "out, Tensor lse" +
                        call_schema() + ") -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)";
  m.def(forward.c_str(), tags);
  m.def(backward.c_str(), tags);
  const auto add = [&](DispatchKey key, auto* forward, auto* backward) {
    m.impl("attention", torch::dispatch(key, forward));
    m.impl("attention_backward", torch::dispatch(key, backward));
  };
  // CUDA in every build, and what is no dense tensor: so that these get our refusal, which names what can be done, and
  // not the dispatcher's.
  for (const DispatchKey key :
       {DispatchKey::CPU, DispatchKey::CUDA, DispatchKey::SparseCPU, DispatchKey::SparseCUDA, DispatchKey::SparseCsrCPU,
        DispatchKey::SparseCsrCUDA, DispatchKey::QuantizedCPU, DispatchKey::QuantizedCUDA, DispatchKey::NestedTensorCPU,
        DispatchKey::NestedTensorCUDA, DispatchKey::MkldnnCPU})
    add(key, &Unpacked::forward<forward_device>, &Unpacked::backward<backward_device>);
  add(DispatchKey::Meta, &Unpacked::forward<forward_meta>, &Unpacked::backward<backward_meta>);
  add(DispatchKey::Autograd, &Unpacked::forward<forward_autograd>, &Unpacked::backward<backward_autograd>);
  for (const DispatchKey key : {DispatchKey::AutocastCPU, DispatchKey::AutocastCUDA})
    m.impl("attention", torch::dispatch(key, &Unpacked::forward<forward_autocast>));
}

}  // namespace longstride::op
