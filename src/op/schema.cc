// The operators' schemas and what is registered for them: the only file that knows the argument lists by heart. Every
// kernel takes the arguments after q, k, v as one Call.
#include <torch/library.h>

#include "op/kernels.h"

namespace longstride::op {
namespace {

using at::Tensor;
using SymIntList = at::OptionalArrayRef<c10::SymInt>;

constexpr const char* kForward =
    "dilated_attention(Tensor q, Tensor k, Tensor v, int[] segment_lengths, int[] dilation_rates, *, "
    "bool causal=False, float? scale=None, str head_offset=\"modulo\", int[]? offsets=None, str mixing=\"joint\", bool "
    "average=False, "
    "str padding=\"masked\", SymInt[]? cu_seqlens=None, SymInt[]? lengths=None, SymInt? query_start=None, "
    "float dropout_p=0.0, Tensor? dropout_seed=None, bool deterministic=False) -> (Tensor out, Tensor lse)";

constexpr const char* kBackward =
    "dilated_attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "int[] segment_lengths, int[] dilation_rates, *, bool causal=False, float? scale=None, str head_offset=\"modulo\", "
    "int[]? offsets=None, str mixing=\"joint\", bool average=False, str padding=\"masked\", SymInt[]? cu_seqlens=None, "
    "SymInt[]? lengths=None, SymInt? query_start=None, float dropout_p=0.0, Tensor? dropout_seed=None, "
    "bool deterministic=False) -> (Tensor dq, Tensor dk, Tensor dv)";

constexpr const char* kPatternForward =
    "pattern_attention(Tensor q, Tensor k, Tensor v, str pattern_json, Tensor? blocks=None, *, Tensor? gates=None, "
    "float? scale=None, SymInt[]? cu_seqlens=None, SymInt[]? lengths=None, SymInt? query_start=None, "
    "float dropout_p=0.0, Tensor? dropout_seed=None, bool deterministic=False) -> (Tensor out, Tensor lse)";

constexpr const char* kPatternBackward =
    "pattern_attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
    "str pattern_json, Tensor? blocks=None, *, Tensor? gates=None, float? scale=None, SymInt[]? cu_seqlens=None, "
    "SymInt[]? lengths=None, SymInt? query_start=None, float dropout_p=0.0, Tensor? dropout_seed=None, "
    "bool deterministic=False) -> (Tensor dq, Tensor dk, Tensor dv, Tensor d_gates)";

template <class T>
std::optional<std::vector<T>> owned(at::OptionalArrayRef<T> list) {
  if (!list) return std::nullopt;
  return list->vec();
}

Call dilated_call(at::IntArrayRef segment_lengths, at::IntArrayRef dilation_rates, bool causal,
                  std::optional<double> scale, std::string_view head_offset, at::OptionalIntArrayRef offsets,
                  std::string_view mixing, bool average, std::string_view padding, SymIntList cu_seqlens,
                  SymIntList lengths, std::optional<c10::SymInt> query_start, double dropout_p,
                  const std::optional<Tensor>& dropout_seed, bool deterministic) {
  Call call;
  call.segment_lengths = segment_lengths.vec();
  call.dilation_rates = dilation_rates.vec();
  call.causal = causal;
  call.scale = scale;
  call.head_offset = std::string(head_offset);
  call.offsets = owned(offsets);
  call.mixing = std::string(mixing);
  call.average = average;
  call.padding = std::string(padding);
  call.cu_seqlens = owned(cu_seqlens);
  call.lengths = owned(lengths);
  call.query_start = std::move(query_start);
  call.dropout_p = dropout_p;
  call.dropout_seed = dropout_seed;
  call.deterministic = deterministic;
  return call;
}

template <Outputs (*kernel)(const Tensor&, const Tensor&, const Tensor&, const Call&)>
Outputs unpack_forward(const Tensor& q, const Tensor& k, const Tensor& v, at::IntArrayRef segment_lengths,
                       at::IntArrayRef dilation_rates, bool causal, std::optional<double> scale,
                       std::string_view head_offset, at::OptionalIntArrayRef offsets, std::string_view mixing,
                       bool average, std::string_view padding, SymIntList cu_seqlens, SymIntList lengths,
                       std::optional<c10::SymInt> query_start, double dropout_p,
                       const std::optional<Tensor>& dropout_seed, bool deterministic) {
  return kernel(
      q, k, v,
      dilated_call(segment_lengths, dilation_rates, causal, scale, head_offset, offsets, mixing, average, padding,
                   cu_seqlens, lengths, std::move(query_start), dropout_p, dropout_seed, deterministic));
}

using ThreeGrads = std::tuple<Tensor, Tensor, Tensor>;

template <InputGrads (*kernel)(const BackwardInputs&, const Call&)>
ThreeGrads unpack_backward(const Tensor& d_out, const std::optional<Tensor>& d_lse, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor& out, const Tensor& lse, at::IntArrayRef segment_lengths,
                           at::IntArrayRef dilation_rates, bool causal, std::optional<double> scale,
                           std::string_view head_offset, at::OptionalIntArrayRef offsets, std::string_view mixing,
                           bool average, std::string_view padding, SymIntList cu_seqlens, SymIntList lengths,
                           std::optional<c10::SymInt> query_start, double dropout_p,
                           const std::optional<Tensor>& dropout_seed, bool deterministic) {
  const auto [dq, dk, dv, none] = kernel(
      BackwardInputs{d_out, d_lse, q, k, v, out, lse},
      dilated_call(segment_lengths, dilation_rates, causal, scale, head_offset, offsets, mixing, average, padding,
                   cu_seqlens, lengths, std::move(query_start), dropout_p, dropout_seed, deterministic));
  return {dq, dk, dv};
}

Call pattern_call(std::string_view pattern_json, const std::optional<Tensor>& blocks,
                  const std::optional<Tensor>& gates, std::optional<double> scale, SymIntList cu_seqlens,
                  SymIntList lengths, std::optional<c10::SymInt> query_start, double dropout_p,
                  const std::optional<Tensor>& dropout_seed, bool deterministic) {
  Call call;
  call.pattern_json = std::string(pattern_json);
  call.blocks = blocks;
  call.gates = gates;
  call.scale = scale;
  call.cu_seqlens = owned(cu_seqlens);
  call.lengths = owned(lengths);
  call.query_start = std::move(query_start);
  call.dropout_p = dropout_p;
  call.dropout_seed = dropout_seed;
  call.deterministic = deterministic;
  return call;
}

template <Outputs (*kernel)(const Tensor&, const Tensor&, const Tensor&, const Call&)>
Outputs unpack_pattern_forward(const Tensor& q, const Tensor& k, const Tensor& v, std::string_view pattern_json,
                               const std::optional<Tensor>& blocks, const std::optional<Tensor>& gates,
                               std::optional<double> scale, SymIntList cu_seqlens, SymIntList lengths,
                               std::optional<c10::SymInt> query_start, double dropout_p,
                               const std::optional<Tensor>& dropout_seed, bool deterministic) {
  return kernel(q, k, v,
                pattern_call(pattern_json, blocks, gates, scale, cu_seqlens, lengths, std::move(query_start), dropout_p,
                             dropout_seed, deterministic));
}

template <InputGrads (*kernel)(const BackwardInputs&, const Call&)>
InputGrads unpack_pattern_backward(const Tensor& d_out, const std::optional<Tensor>& d_lse, const Tensor& q,
                                   const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                                   std::string_view pattern_json, const std::optional<Tensor>& blocks,
                                   const std::optional<Tensor>& gates, std::optional<double> scale,
                                   SymIntList cu_seqlens, SymIntList lengths, std::optional<c10::SymInt> query_start,
                                   double dropout_p, const std::optional<Tensor>& dropout_seed, bool deterministic) {
  return kernel(BackwardInputs{d_out, d_lse, q, k, v, out, lse},
                pattern_call(pattern_json, blocks, gates, scale, cu_seqlens, lengths, std::move(query_start), dropout_p,
                             dropout_seed, deterministic));
}

// All that the kernels get is used by them alone, so unpack_* of any kernel has the signature of the operator.
using ForwardSignature = decltype(unpack_forward<forward_device>);
using BackwardSignature = decltype(unpack_backward<backward_device>);
using PatternForwardSignature = decltype(unpack_pattern_forward<forward_device>);
using PatternBackwardSignature = decltype(unpack_pattern_backward<backward_device>);

template <class T>
at::OptionalArrayRef<T> borrowed(const std::optional<std::vector<T>>& list) {
  if (!list) return std::nullopt;
  return at::ArrayRef<T>(*list);
}

}  // namespace

Outputs dispatch_forward(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  if (call.pattern_json) {
    static const auto pattern_handle = c10::Dispatcher::singleton()
                                           .findSchemaOrThrow("longstride::pattern_attention", "")
                                           .typed<PatternForwardSignature>();
    return pattern_handle.call(q, k, v, *call.pattern_json, call.blocks, call.gates, call.scale,
                               borrowed(call.cu_seqlens), borrowed(call.lengths), call.query_start, call.dropout_p,
                               call.dropout_seed, call.deterministic);
  }
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("longstride::dilated_attention", "").typed<ForwardSignature>();
  return handle.call(q, k, v, call.segment_lengths, call.dilation_rates, call.causal, call.scale, call.head_offset,
                     borrowed(call.offsets), call.mixing, call.average, call.padding, borrowed(call.cu_seqlens),
                     borrowed(call.lengths), call.query_start, call.dropout_p, call.dropout_seed, call.deterministic);
}

InputGrads dispatch_backward(const BackwardInputs& in, const Call& call) {
  if (call.pattern_json) {
    static const auto pattern_handle = c10::Dispatcher::singleton()
                                           .findSchemaOrThrow("longstride::pattern_attention_backward", "")
                                           .typed<PatternBackwardSignature>();
    return pattern_handle.call(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, *call.pattern_json, call.blocks,
                               call.gates, call.scale, borrowed(call.cu_seqlens), borrowed(call.lengths),
                               call.query_start, call.dropout_p, call.dropout_seed, call.deterministic);
  }
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("longstride::dilated_attention_backward", "")
                                 .typed<BackwardSignature>();
  auto [dq, dk, dv] =
      handle.call(in.d_out, in.d_lse, in.q, in.k, in.v, in.out, in.lse, call.segment_lengths, call.dilation_rates,
                  call.causal, call.scale, call.head_offset, borrowed(call.offsets), call.mixing, call.average,
                  call.padding, borrowed(call.cu_seqlens), borrowed(call.lengths), call.query_start, call.dropout_p,
                  call.dropout_seed, call.deterministic);
  return {dq, dk, dv, Tensor()};
}

TORCH_LIBRARY(longstride, m) {
  // The strides of q, k, v are part of the contract (dim contiguous): a compiler that lays tensors out anew must keep
  // them.
  m.def(kForward, {at::Tag::pt2_compliant_tag, at::Tag::needs_fixed_stride_order});
  m.def(kBackward, {at::Tag::pt2_compliant_tag, at::Tag::needs_fixed_stride_order});
  m.def(kPatternForward, {at::Tag::pt2_compliant_tag, at::Tag::needs_fixed_stride_order});
  m.def(kPatternBackward, {at::Tag::pt2_compliant_tag, at::Tag::needs_fixed_stride_order});
}

TORCH_LIBRARY_IMPL(longstride, CPU, m) {
  m.impl("dilated_attention", unpack_forward<forward_device>);
  m.impl("dilated_attention_backward", unpack_backward<backward_device>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_device>);
  m.impl("pattern_attention_backward", unpack_pattern_backward<backward_device>);
}

// Registered so that a CUDA tensor gets our refusal, which names what can be done, and not the dispatcher's.
TORCH_LIBRARY_IMPL(longstride, CUDA, m) {
  m.impl("dilated_attention", unpack_forward<forward_device>);
  m.impl("dilated_attention_backward", unpack_backward<backward_device>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_device>);
  m.impl("pattern_attention_backward", unpack_pattern_backward<backward_device>);
}

TORCH_LIBRARY_IMPL(longstride, Meta, m) {
  m.impl("dilated_attention", unpack_forward<forward_meta>);
  m.impl("dilated_attention_backward", unpack_backward<backward_meta>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_meta>);
  m.impl("pattern_attention_backward", unpack_pattern_backward<backward_meta>);
}

TORCH_LIBRARY_IMPL(longstride, Autograd, m) {
  m.impl("dilated_attention", unpack_forward<forward_autograd>);
  m.impl("dilated_attention_backward", unpack_backward<backward_autograd>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_autograd>);
  m.impl("pattern_attention_backward", unpack_pattern_backward<backward_autograd>);
}

TORCH_LIBRARY_IMPL(longstride, AutocastCPU, m) {
  m.impl("dilated_attention", unpack_forward<forward_autocast>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_autocast>);
}

TORCH_LIBRARY_IMPL(longstride, AutocastCUDA, m) {
  m.impl("dilated_attention", unpack_forward<forward_autocast>);
  m.impl("pattern_attention", unpack_pattern_forward<forward_autocast>);
}

}  // namespace longstride::op
