// The element types that engines know.
#pragma once

#include <cstddef>

namespace longstride::core {

enum class DType { kFloat64, kFloat32, kBFloat16, kFloat16 };

constexpr size_t size_bytes(DType t) { return t == DType::kFloat64 ? 8 : t == DType::kFloat32 ? 4 : 2; }

constexpr const char* name(DType t) {
  switch (t) {
    case DType::kFloat64:
      return "float64";
    case DType::kFloat32:
      return "float32";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "?";
}

}  // namespace longstride::core
