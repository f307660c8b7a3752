// What the checks see of a tensor: one value for both worlds, read from LibTorch's stable ABI in this room and from its
// full one in op/autograd. Size is int64_t, or c10::SymInt in a traced graph. Nothing here calls LibTorch.
#pragma once

#include <torch/headeronly/core/DeviceType.h>
#include <torch/headeronly/core/Layout.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "longstride/pattern/blocks.h"

namespace longstride::op {

using torch::headeronly::DeviceType;
using torch::headeronly::Layout;
using torch::headeronly::ScalarType;

// Where a tensor is.
struct Place {
  DeviceType type = DeviceType::CPU;
  int index = -1;
  bool operator==(const Place&) const = default;
  bool is_cpu() const { return type == DeviceType::CPU; }
  bool is_cuda() const { return type == DeviceType::CUDA; }
};
std::string text(Place);               // "cuda:0"
std::string_view layout_name(Layout);  // "SparseCsr"

enum class Kind { kUndefined, kDense, kNested, kOtherLayout, kQuantized };

// Borrows sizes and strides. Of what is not dense only `kind`, `layout`, `dtype` and `place` are set.
template <class Size>
struct ArrayView {
  Kind kind = Kind::kUndefined;
  Layout layout = Layout::Strided;
  ScalarType dtype = ScalarType::Undefined;
  Place place;
  std::span<const Size> sizes, strides;
  // Memory behind it: none on the meta device, nor while a graph is traced. Then the rest is not set.
  bool has_data = false;
  int64_t storage_bytes = 0, storage_offset = 0, item_bytes = 0;

  int64_t dim() const { return std::ssize(sizes); }
};

// How a tensor of one world is read: Size, view(tensor), and from a tensor with data, wherever it is, numbers(tensor)
// of one dimension and blocks(tensor) of rows [rows, 4].
template <class Tensor>
struct Access;

// What is certain of sizes: symbols that cannot be compared now are neither different nor less.
template <class Size>
struct Compare;
template <>
struct Compare<int64_t> {
  static bool differ(int64_t a, int64_t b) { return a != b; }
  static bool less(int64_t a, int64_t b) { return a < b; }
  static std::optional<int64_t> number(int64_t a) { return a; }
};

template <class T>
std::string text(const T& value) {
  std::ostringstream stream;
  stream << value;
  return stream.str();
}
template <class Size>
std::string text(std::span<const Size> sizes) {
  std::ostringstream stream;
  for (size_t i = 0; i < sizes.size(); ++i) stream << (i ? ", " : "[") << sizes[i];
  return sizes.empty() ? "[]" : stream.str() + "]";
}

// Entries of int32 or int64 on the host.
std::vector<int64_t> host_numbers(const void* first, ScalarType, int64_t count, int64_t stride);
// Rows of a checked `blocks` on the host.
std::vector<Block> host_blocks(const int32_t* first, int64_t rows, int64_t row_stride, int64_t stride);

// float32, float64, float16 or bfloat16.
bool is_our_dtype(ScalarType);
core::DType dtype_of(ScalarType);  // of one of ours
// Of lse: float32, or float64 for float64 inputs.
inline ScalarType lse_dtype(ScalarType q) { return q == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

}  // namespace longstride::op
