// LibTorch's codes of types and devices in our names, and copies (tensor.h).
#include "op/tensor.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <utility>

#include "core/checked.h"
#include "op/memory.h"

namespace longstride::op {
namespace {

// LibTorch's numbers for dtypes, devices and layouts may change: it is asked for them, once.
template <class Name, size_t n>
Name named(int32_t code, const std::array<std::pair<int32_t, Name>, n>& names, Name otherwise) {
  for (const auto& [known, name] : names)
    if (known == code) return name;
  return otherwise;
}

const auto& dtypes() {
  using enum ScalarType;
  static const auto known =
      std::to_array<std::pair<int32_t, ScalarType>>({{aoti_torch_dtype_float32(), Float},
                                                     {aoti_torch_dtype_bfloat16(), BFloat16},
                                                     {aoti_torch_dtype_float16(), Half},
                                                     {aoti_torch_dtype_float64(), Double},
                                                     {aoti_torch_dtype_int64(), Long},
                                                     {aoti_torch_dtype_int32(), Int},
                                                     {aoti_torch_dtype_int16(), Short},
                                                     {aoti_torch_dtype_int8(), Char},
                                                     {aoti_torch_dtype_uint8(), Byte},
                                                     {aoti_torch_dtype_uint16(), UInt16},
                                                     {aoti_torch_dtype_uint32(), UInt32},
                                                     {aoti_torch_dtype_uint64(), UInt64},
                                                     {aoti_torch_dtype_bool(), Bool},
                                                     {aoti_torch_dtype_complex32(), ComplexHalf},
                                                     {aoti_torch_dtype_complex64(), ComplexFloat},
                                                     {aoti_torch_dtype_complex128(), ComplexDouble},
                                                     {aoti_torch_dtype_float8_e5m2(), Float8_e5m2},
                                                     {aoti_torch_dtype_float8_e4m3fn(), Float8_e4m3fn},
                                                     {aoti_torch_dtype_float8_e5m2fnuz(), Float8_e5m2fnuz},
                                                     {aoti_torch_dtype_float8_e4m3fnuz(), Float8_e4m3fnuz}});
  return known;
}

const auto& devices() {
  using enum DeviceType;
  static const auto known =
      std::to_array<std::pair<int32_t, DeviceType>>({{aoti_torch_device_type_cpu(), CPU},
                                                     {aoti_torch_device_type_cuda(), CUDA},
                                                     {aoti_torch_device_type_meta(), Meta},
                                                     {aoti_torch_device_type_xpu(), XPU},
                                                     {aoti_torch_device_type_mps(), MPS},
                                                     {aoti_torch_device_type_privateuse1(), PrivateUse1}});
  return known;
}

int32_t code_of(ScalarType dtype) {
  for (const auto& [code, name] : dtypes())
    if (name == dtype) return code;
  return -1;
}
int32_t code_of(DeviceType device) {
  for (const auto& [code, name] : devices())
    if (name == device) return code;
  return -1;
}

Tensor copied(const Tensor& from, Place place) {
  const ArrayView<int64_t> t = Access<Tensor>::view(from);
  Tensor to = empty(t.sizes, t.dtype, place);
  TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.get(), from.get(), /*non_blocking=*/0));
  return to;
}

}  // namespace

ArrayView<int64_t> Access<Tensor>::view(const Tensor& t) {
  ArrayView<int64_t> view;
  if (!t.defined()) return view;
  const AtenTensorHandle handle = t.get();
  int32_t dtype = 0, device = 0, index = 0, layout = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle, &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(handle, &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(handle, &index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(handle, &layout));
  view.dtype = named(dtype, dtypes(), ScalarType::Undefined);
  view.place = {named(device, devices(), DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES), index};
  static const int32_t strided = aoti_torch_layout_strided();
  if (layout != strided) {
    view.kind = Kind::kOtherLayout;
    view.layout = t.layout();
    return view;
  }
  view.kind = Kind::kDense;
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle, &dim));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle, &sizes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle, &strides));
  view.sizes = {sizes, static_cast<size_t>(dim)};
  view.strides = {strides, static_cast<size_t>(dim)};
  view.has_data = view.place.type != DeviceType::Meta;
  if (!view.has_data) return view;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(handle, &view.storage_bytes));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(handle, &view.storage_offset));
  view.item_bytes = aoti_torch_dtype_element_size(dtype);
  return view;
}

std::vector<int64_t> Access<Tensor>::numbers(const Tensor& list) {
  const Tensor host = on_host(list);
  return host_numbers(host.const_data_ptr(), view(host).dtype, host.size(0), host.stride(0));
}

std::vector<Block> Access<Tensor>::blocks(const Tensor& rows) {
  const Tensor host = on_host(rows);
  return host_blocks(static_cast<const int32_t*>(host.const_data_ptr()), host.size(0), host.stride(0), host.stride(1));
}

Tensor empty(Sizes sizes, ScalarType dtype, Place place) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * std::max<int64_t>(sizes[d], 1);
  AtenTensorHandle made = nullptr;
  if (aoti_torch_empty_strided(std::ssize(sizes), sizes.data(), strides.data(), code_of(dtype), code_of(place.type),
                               place.index, &made)) {
    int64_t bytes = aoti_torch_dtype_element_size(code_of(dtype));
    for (const int64_t size : sizes) bytes = core::saturating_multiply(bytes, size);
    out_of_memory(bytes, place);
  }
  return Tensor(made);
}

Tensor zeros(Sizes sizes, ScalarType dtype, Place place) {
  Tensor made = empty(sizes, dtype, place);
  TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(made.get()));
  return made;
}

Tensor contiguous(const Tensor& t) { return t.is_contiguous() ? t : copied(t, Access<Tensor>::view(t).place); }

Tensor on_host(const Tensor& t) { return t.is_cpu() ? t : copied(t, {}); }

}  // namespace longstride::op
