// Checks that the modules' options share. Called by validate() functions and by forward passes, before any work.
#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/refuse.h"

namespace longstride::nn {

inline void require_positive(std::string_view argument, int64_t value) {
  if (value <= 0) core::refuse(argument, "must be positive", std::to_string(value));
}

// Also refuses NaN and infinity.
inline void require_positive_finite(std::string_view argument, double value) {
  if (!(value > 0) || !std::isfinite(value)) {
    core::refuse(argument, "must be positive and finite", fmt::format("{}", value));
  }
}

inline void require_dropout(std::string_view argument, double value) {
  if (!(value >= 0 && value < 1)) core::refuse(argument, "must be in [0, 1)", fmt::format("{}", value));
}

inline std::string shape_text(const at::Tensor& t) {
  return t.defined() ? fmt::format("[{}]", fmt::join(t.sizes().vec(), ", ")) : std::string("an undefined tensor");
}

}  // namespace longstride::nn
