// Tensors of a call as the engines read them. Called by the kernels of a call and of a rank's.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "core/refuse.h"
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

// The slopes of ALiBi of a call. Their numbers are looked at where that waits for nothing: on the host. Throws Error.
inline std::optional<Tensor> slopes_of(const Call& call) {
  if (!given(call.alibi_slopes)) return std::nullopt;
  Tensor slopes = contiguous(*call.alibi_slopes);
  const auto* const first = static_cast<const float*>(slopes.const_data_ptr());
  for (int64_t h = 0; slopes.is_cpu() && h < slopes.numel(); ++h)
    if (!std::isfinite(first[h]))
      core::refuse("alibi_slopes", "must be finite", fmt::format("{} for head {}", first[h], h),
                   "a slope of 0 leaves a head as it is");
  return slopes;
}

}  // namespace longstride::op
