// Checks that the modules' options share. Called by validate() functions and by forward passes, before any work.
#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "core/refuse.h"

namespace longstride::nn {

inline void require_positive(std::string_view argument, int64_t value) {
  if (value <= 0) core::refuse(argument, "must be positive", value);
}

// Also refuses NaN and infinity.
inline void require_positive_finite(std::string_view argument, double value) {
  if (!(value > 0) || !std::isfinite(value)) core::refuse(argument, "must be positive and finite", value);
}

inline void require_dropout(std::string_view argument, double value) {
  if (!(value >= 0 && value < 1)) core::refuse(argument, "must be in [0, 1)", value);
}

// The shape, or what it has in place of one.
std::string shape_text(const at::Tensor& t);

// What keeps a tensor from being a dense one: "an undefined tensor", "a tensor of layout Sparse", "a tensor of 8 bytes
// on a storage of 0"; "" for a dense one, which may be a meta tensor. To be asked first: a nested tensor has no sizes,
// a sparse one no strides.
std::string not_dense(const at::Tensor& t);
// The same, and what keeps its values from being read: "a meta tensor, which has no values".
std::string not_readable(const at::Tensor& t);
void require_dense(std::string_view argument, const at::Tensor& t);     // throws Error
void require_readable(std::string_view argument, const at::Tensor& t);  // throws Error

// make(), whose tensors have the sizes that `argument` says. LibTorch's errors on the way, for want of memory or since
// a size does not fit, become Error.
template <class Make>
auto within_memory(std::string_view argument, const std::string& sizes, Make&& make) {
  try {
    return make();
  } catch (const c10::Error& e) {
    core::refuse(argument, "must fit into memory", sizes, e.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    core::refuse(argument, "must fit into memory", sizes);
  } catch (const std::length_error&) {
    core::refuse(argument, "must fit into memory", sizes);
  }
}

}  // namespace longstride::nn
