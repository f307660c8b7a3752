// Where a tensor's memory lies, as the engines take it. Called by the kernels.
#pragma once

#include "engine/contract.h"
#include "op/tensor.h"

namespace longstride::op {

inline engine::ConstTensorRef read(const Tensor& t) {
  return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2)};
}
inline engine::TensorRef write(const Tensor& t) {
  return {t.mutable_data_ptr(), t.stride(0), t.stride(1), t.stride(2)};
}

// [batch, len, heads, dim], copied if dim is not contiguous.
inline Tensor with_contiguous_dim(const Tensor& t) { return t.stride(3) == 1 || t.size(3) == 1 ? t : contiguous(t); }

}  // namespace longstride::op
