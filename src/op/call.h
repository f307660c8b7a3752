// The arguments of one call after q, k, v, as one value that the kernels hand on, in this room with tensors of
// LibTorch's stable ABI and numbers, in op/autograd with those of its full ABI and sizes that may be symbols. The list
// of fields is here once: fields() visits them in the order of the operator's schema, and what registers, saves, loads
// or passes on a call is made from it.
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

template <class Tensor, class Size>
struct CallOf : Settings {
  std::optional<Tensor> blocks;        // int32 [rows, 4], on any device
  std::optional<Tensor> gates;         // [rows], dtype of lse, on q's device
  std::optional<Tensor> alibi_slopes;  // float32 [heads], on q's device
  std::optional<Tensor> cu_seqlens;    // int32 or int64 [documents + 1], on any device
  std::optional<Tensor> lengths;       // int32 or int64 [batch], on any device
  std::optional<Tensor> dropout_seed;  // one int64 on q's device
  std::optional<Size> query_start;

  // visit(name, default in the schema, member) of every field; a default is "" where there is none.
  template <class Self, class Visit>
  static void fields(Self& call, Visit visit) {
    visit("pattern", "", call.pattern);
    visit("blocks", "None", call.blocks);
    visit("gates", "None", call.gates);
    visit("alibi_slopes", "None", call.alibi_slopes);
    visit("cu_seqlens", "None", call.cu_seqlens);
    visit("lengths", "None", call.lengths);
    visit("dropout_seed", "None", call.dropout_seed);
    visit("scale", "None", call.scale);
    visit("query_start", "None", call.query_start);
    visit("dropout_p", "0.0", call.dropout_p);
    visit("deterministic", "False", call.deterministic);
  }

  // From the operator's arguments.
  static CallOf of(std::string pattern, std::optional<Tensor> blocks, std::optional<Tensor> gates,
                   std::optional<Tensor> alibi_slopes, std::optional<Tensor> cu_seqlens, std::optional<Tensor> lengths,
                   std::optional<Tensor> dropout_seed, std::optional<double> scale, std::optional<Size> query_start,
                   double dropout_p, bool deterministic) {
    return {{std::move(pattern), scale, dropout_p, deterministic},
            std::move(blocks),
            std::move(gates),
            std::move(alibi_slopes),
            std::move(cu_seqlens),
            std::move(lengths),
            std::move(dropout_seed),
            std::move(query_start)};
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
