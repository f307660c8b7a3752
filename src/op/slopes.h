// The slopes of ALiBi of a call, as an engine reads them. Called by the kernels of a call and of a rank's.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "core/refuse.h"
#include "op/kernels.h"

namespace longstride::op {

// Their numbers are looked at where that waits for nothing: on the host. Throws Error.
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
