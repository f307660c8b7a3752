// The element types that engines know.
#pragma once

#include <cstddef>

namespace longstride::core {

enum class DType { kFloat64, kFloat32, kBFloat16, kFloat16 };

constexpr size_t size_bytes(DType t) { return t == DType::kFloat64 ? 8 : t == DType::kFloat32 ? 4 : 2; }

constexpr const char* name(DType t) {
  constexpr const char* kNames[] = {"float64", "float32", "bfloat16", "float16"};  // in the order of DType
  return kNames[static_cast<size_t>(t)];
}

}  // namespace longstride::core
