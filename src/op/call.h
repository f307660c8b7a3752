// The arguments of one call after q, k, v, as one value that the kernels hand on, in this room with tensors of
// LibTorch's stable ABI and numbers, in op/autograd with those of its full ABI and sizes that may be symbols. The list
// of fields is here once, in the order of the operator's schema: what registers, saves, loads or passes on a call is
// made from it.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace longstride::op {

// What of a call is no tensor and no size.
struct Settings {
  std::string pattern;  // JSON, as to_json() writes it
  std::optional<double> scale;
  double dropout_p = 0;
  bool deterministic = false;
};

// One field as an argument of the operator.
template <class Owner, class Field>
struct Argument {
  const char* name;
  const char* otherwise;  // its default in the schema; "": there is none
  Field Owner::*member;
};

template <class Tensor, class Size>
struct CallOf : Settings {
  std::optional<Tensor> blocks;        // int32 [rows, 4], on any device
  std::optional<Tensor> gates;         // [rows], dtype of lse, on q's device
  std::optional<Tensor> alibi_slopes;  // float32 [heads], on q's device
  std::optional<Tensor> cu_seqlens;    // int32 or int64 [documents + 1], on any device
  std::optional<Tensor> lengths;       // int32 or int64 [batch], on any device
  std::optional<Tensor> dropout_seed;  // one int64 on q's device
  std::optional<Size> query_start;

  // Every field, in the order of the operator's arguments.
  static constexpr auto arguments() {
    return std::tuple{Argument{"pattern", "", &CallOf::pattern},
                      Argument{"blocks", "None", &CallOf::blocks},
                      Argument{"gates", "None", &CallOf::gates},
                      Argument{"alibi_slopes", "None", &CallOf::alibi_slopes},
                      Argument{"cu_seqlens", "None", &CallOf::cu_seqlens},
                      Argument{"lengths", "None", &CallOf::lengths},
                      Argument{"dropout_seed", "None", &CallOf::dropout_seed},
                      Argument{"scale", "None", &CallOf::scale},
                      Argument{"query_start", "None", &CallOf::query_start},
                      Argument{"dropout_p", "0.0", &CallOf::dropout_p},
                      Argument{"deterministic", "False", &CallOf::deterministic}};
  }

  // visit(name, default in the schema, field) of each.
  template <class Self, class Visit>
  static void fields(Self& call, Visit visit) {
    std::apply([&](const auto&... a) { (visit(a.name, a.otherwise, call.*a.member), ...); }, arguments());
  }

  // From the operator's arguments.
  template <class... Values>
  static CallOf of(Values&&... values) {
    CallOf call;
    std::apply([&](const auto&... a) { ((call.*a.member = std::forward<Values>(values)), ...); }, arguments());
    return call;
  }
};

template <class Tensor>
using OutputsOf = std::tuple<Tensor, Tensor>;  // out, lse
// dq, dk, dv, d_gates; the last is empty if the call has no gates.
template <class Tensor>
using InputGradsOf = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// What the backward is given besides the call.
template <class Tensor>
struct BackwardInputsOf {
  Tensor d_out;                 // [batch, len_q, heads, dim]
  std::optional<Tensor> d_lse;  // [batch, heads, len_q]; none: zero
  Tensor q, k, v, out, lse;     // as the forward took and gave them
};

template <class Tensor>
bool given(const std::optional<Tensor>& t) {
  return t && t->defined();
}

}  // namespace longstride::op
