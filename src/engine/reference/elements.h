// Element types of the reference engine: every value is a double as soon as it is read, and is rounded once when
// written. Called by forward.cc and backward.cc.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/half.h"
#include "engine/contract.h"

namespace longstride::engine::reference {

inline double load(double x) { return x; }
inline double load(float x) { return x; }
inline double load(core::BFloat16 x) { return core::to_float(x); }
inline double load(core::Float16 x) { return core::to_float(x); }

inline void store(double value, double* to) { *to = value; }
inline void store(double value, float* to) { *to = static_cast<float>(value); }
inline void store(double value, core::BFloat16* to) { *to = core::to_bfloat16(static_cast<float>(value)); }
inline void store(double value, core::Float16* to) { *to = core::to_float16(static_cast<float>(value)); }

// The type of lse beside elements of type Element.
template <typename Element>
using LseOf = std::conditional_t<std::is_same_v<Element, double>, double, float>;

// Row `i` of head `h` in batch row `b`.
template <typename Element>
const Element* row(const ConstTensorRef& t, int64_t b, int64_t i, int64_t h) {
  return static_cast<const Element*>(t.data) + b * t.batch_stride + i * t.len_stride + h * t.head_stride;
}
template <typename Element>
Element* row(const TensorRef& t, int64_t b, int64_t i, int64_t h) {
  return static_cast<Element*>(t.data) + b * t.batch_stride + i * t.len_stride + h * t.head_stride;
}

template <typename Element>
double dot(const Element* a, const Element* b, int64_t dim) {
  double sum = 0;
  for (int64_t d = 0; d < dim; ++d) sum += load(a[d]) * load(b[d]);
  return sum;
}

// Calls body.template operator()<Element>() for the element type of `dtype`.
template <typename Body>
void with_element(core::DType dtype, Body&& body) {
  switch (dtype) {
    case core::DType::kFloat64:
      return body.template operator()<double>();
    case core::DType::kFloat32:
      return body.template operator()<float>();
    case core::DType::kBFloat16:
      return body.template operator()<core::BFloat16>();
    case core::DType::kFloat16:
      return body.template operator()<core::Float16>();
  }
}

}  // namespace longstride::engine::reference
