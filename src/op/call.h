// The arguments of one call after q, k, v, in the order of the operators' schemas (schema.cc), as one value that the
// kernels of this room hand on. A call is one of dilated_attention, or, if it has a pattern in JSON, of
// pattern_attention; the first fields of the other stay as they are here.
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
  std::optional<std::string> pattern_json;
  std::optional<at::Tensor> blocks;  // int32 [rows, 4]
  std::optional<at::Tensor> gates;   // [rows], dtype of lse

  std::vector<int64_t> segment_lengths;
  std::vector<int64_t> dilation_rates;
  bool causal = false;
  std::optional<double> scale;
  std::string head_offset = "modulo";
  std::optional<std::vector<int64_t>> offsets;
  std::string mixing = "joint";
  bool average = false;
  std::string padding = "masked";
  std::optional<std::vector<c10::SymInt>> cu_seqlens;
  std::optional<std::vector<c10::SymInt>> lengths;
  std::optional<c10::SymInt> query_start;
  double dropout_p = 0;
  std::optional<at::Tensor> dropout_seed;
  bool deterministic = false;
};

Call make_call(const Pattern&, const AttentionOptions&);
Call make_call(const std::string& pattern_json, const std::optional<at::Tensor>& blocks, const AttentionOptions&);

// The pattern that a call names; blocks without numbers (a traced graph) are taken for none. Throws Error.
Pattern pattern_of(const Call&);

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
