// What the checks read of a tensor, and how they word it (array.h).
#include "op/array.h"

namespace longstride::op {

std::string text(Place place) {
  // In the order of DeviceType.
  constexpr const char* kNames[] = {"cpu",  "cuda", "mkldnn", "opengl", "opencl", "ideep", "hip",
                                    "fpga", "maia", "xla",    "vulkan", "metal",  "xpu",   "mps",
                                    "meta", "hpu",  "ve",     "lazy",   "ipu",    "mtia",  "privateuseone"};
  const auto number = static_cast<size_t>(place.type);
  std::string name = number < std::size(kNames) ? kNames[number] : "device type " + std::to_string(number);
  return place.index < 0 ? name : name + ":" + std::to_string(place.index);
}

std::string_view layout_name(Layout layout) {
  // In the order of Layout.
  constexpr const char* kNames[] = {"Strided",   "Sparse",    "SparseCsr", "Mkldnn",
                                    "SparseCsc", "SparseBsr", "SparseBsc", "Jagged"};
  static_assert(static_cast<size_t>(Layout::Jagged) + 1 == std::size(kNames));
  const auto number = static_cast<size_t>(layout);
  return number < std::size(kNames) ? kNames[number] : "another library";
}

std::vector<int64_t> host_numbers(const void* first, ScalarType dtype, int64_t count, int64_t stride) {
  std::vector<int64_t> numbers(count);
  for (int64_t i = 0; i < count; ++i)
    numbers[i] = dtype == ScalarType::Int ? static_cast<const int32_t*>(first)[i * stride]
                                          : static_cast<const int64_t*>(first)[i * stride];
  return numbers;
}

std::vector<Block> host_blocks(const int32_t* first, int64_t rows, int64_t row_stride, int64_t stride) {
  std::vector<Block> blocks(rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* row = first + r * row_stride;
    blocks[r] = {row[0], row[stride], row[2 * stride], row[3 * stride]};
  }
  return blocks;
}

bool is_our_dtype(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

core::DType dtype_of(ScalarType dtype) {
  return dtype == ScalarType::Double     ? core::DType::kFloat64
         : dtype == ScalarType::Half     ? core::DType::kFloat16
         : dtype == ScalarType::BFloat16 ? core::DType::kBFloat16
                                         : core::DType::kFloat32;
}

}  // namespace longstride::op
