// The arguments of one call after q, k, v, as one value that the kernels of this room hand on. Its list of fields is
// here once: fields() visits them in the order of the operator's schema, and what saves, loads or passes on a call is
// made from it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "longstride/attention.h"
#include "longstride/pattern.h"

namespace longstride::op {

struct Call {
  std::string pattern;                     // JSON, as to_json() writes it
  std::optional<at::Tensor> blocks;        // int32 [rows, 4], on any device
  std::optional<at::Tensor> gates;         // [rows], dtype of lse, on q's device
  std::optional<at::Tensor> cu_seqlens;    // int32 or int64 [documents + 1], on any device
  std::optional<at::Tensor> lengths;       // int32 or int64 [batch], on any device
  std::optional<at::Tensor> dropout_seed;  // one int64 on q's device
  std::optional<double> scale;
  std::optional<c10::SymInt> query_start;
  double dropout_p = 0;
  bool deterministic = false;

  // visit(name, default in the schema, member) of every field; a default is "" where there is none.
  template <class Self, class Visit>
  static void fields(Self& call, Visit visit) {
    visit("pattern", "", call.pattern);
    visit("blocks", "None", call.blocks);
    visit("gates", "None", call.gates);
    visit("cu_seqlens", "None", call.cu_seqlens);
    visit("lengths", "None", call.lengths);
    visit("dropout_seed", "None", call.dropout_seed);
    visit("scale", "None", call.scale);
    visit("query_start", "None", call.query_start);
    visit("dropout_p", "0.0", call.dropout_p);
    visit("deterministic", "False", call.deterministic);
  }
};

Call make_call(const Pattern&, const AttentionOptions&);
Call make_call(const std::string& pattern_json, const std::optional<at::Tensor>& blocks, const AttentionOptions&);

using Outputs = std::tuple<at::Tensor, at::Tensor>;  // out, lse
// dq, dk, dv, d_gates; the last is empty if the call has no gates.
using InputGrads = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// What the backward is given besides the call.
struct BackwardInputs {
  at::Tensor d_out;                 // [batch, len_q, heads, dim]
  std::optional<at::Tensor> d_lse;  // [batch, heads, len_q]; none: zero
  at::Tensor q, k, v, out, lse;     // as the forward took and gave them
};

}  // namespace longstride::op
