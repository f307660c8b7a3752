// Tensors of LibTorch's full ABI as this room uses them, and calls made of them. Sizes may be symbols.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

#include "longstride/attention.h"
#include "op/array.h"
#include "op/call.h"

namespace longstride::op {

template <>
struct Access<at::Tensor> {
  using Size = c10::SymInt;
  static ArrayView<c10::SymInt> view(const at::Tensor&);
  static std::vector<int64_t> numbers(const at::Tensor&);
  static std::vector<Block> blocks(const at::Tensor&);
};

template <>
struct Compare<c10::SymInt> {
  static bool differ(const c10::SymInt& a, const c10::SymInt& b) { return certain(a.sym_ne(b)); }
  static bool less(const c10::SymInt& a, const c10::SymInt& b) { return certain(a.sym_lt(b)); }
  static std::optional<int64_t> number(const c10::SymInt& a) { return a.maybe_as_int(); }

 private:
  static bool certain(const c10::SymBool& condition) { return condition.guard_or_false(__FILE__, __LINE__); }
};

inline ArrayView<c10::SymInt> view_of(const at::Tensor& t) { return Access<at::Tensor>::view(t); }
inline Place place_of(at::Device device) { return {device.type(), device.index()}; }

namespace autograd {

using Call = CallOf<at::Tensor, c10::SymInt>;
using Outputs = OutputsOf<at::Tensor>;
using InputGrads = InputGradsOf<at::Tensor>;
using BackwardInputs = BackwardInputsOf<at::Tensor>;

Call make_call(const Pattern&, const AttentionOptions&);
Call make_call(const std::string& pattern_json, const std::optional<at::Tensor>& blocks, const AttentionOptions&);

}  // namespace autograd
}  // namespace longstride::op
