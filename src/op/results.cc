// Results from torch's allocator or from the pool, in the stable ABI (tensor.h).
#include <torch/csrc/stable/library.h>

#include "op/later.h"
#include "op/memory.h"
#include "op/tensor.h"

namespace longstride::op {
namespace {

// With torch_from_blob, of LibTorch 2.11: its storage stays as large as it is.
Tensor of_pool(Sizes sizes, ScalarType dtype, Place place, int64_t bytes) {
  if (!torch_from_blob) return empty(sizes, dtype, place);
  // Of an empty tensor, what torch calls this dtype and layout.
  const Tensor like = empty(std::initializer_list<int64_t>{0}, dtype, place);
  int32_t code = 0, layout = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &code));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(like.get(), &layout));
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * sizes[d];
  void* const data = take_from_pool(bytes);
  AtenTensorHandle made = nullptr;
  const auto deleter = [](void* block, void*) { return_to_pool(block); };
  if (torch_from_blob(data, std::ssize(sizes), sizes.data(), strides.data(), 0, code, aoti_torch_device_type_cpu(),
                      place.index, &made, layout, nullptr, 0, deleter, nullptr)) {
    return_to_pool(data);
    return empty(sizes, dtype, place);
  }
  return Tensor(made);
}

}  // namespace

Tensor empty_result(Sizes sizes, ScalarType dtype, Place place) {
  if (!place.is_cpu()) return empty(sizes, dtype, place);
  const int64_t bytes = result_bytes(sizes, core::size_bytes(dtype_of(dtype)));
  if (bytes <= kLargeBytes) return empty(sizes, dtype, place);
  if (const LargeResult make = large_result()) return Tensor(static_cast<AtenTensorHandle>(make(sizes, dtype)));
  return of_pool(sizes, dtype, place, bytes);
}

}  // namespace longstride::op
