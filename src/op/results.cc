// Results from torch's allocator or from the pool, in the stable ABI (results.h).
#include "op/results.h"

#include <torch/csrc/stable/library.h>

#include "op/later.h"
#include "op/memory.h"

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

// aten::name of boxed arguments, the first of which its result takes the place of.
template <class... Arguments>
Tensor aten(const char* name, const Arguments&... arguments) {
  using torch::stable::detail::from;
  std::array<StableIValue, sizeof...(Arguments)> stack{from(arguments)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace

Tensor empty_result(Sizes sizes, ScalarType dtype, Place place) {
  if (!place.is_cpu()) return empty(sizes, dtype, place);
  const int64_t bytes = result_bytes(sizes, core::size_bytes(dtype_of(dtype)));
  if (bytes <= kLargeBytes) return empty(sizes, dtype, place);
  if (const LargeResult make = large_result()) return Tensor(static_cast<AtenTensorHandle>(make(sizes, dtype)));
  return of_pool(sizes, dtype, place, bytes);
}

Tensor by_row(const GateIndex& index, const Tensor& entry_grads) {
  const Place place = Access<Tensor>::view(entry_grads).place;
  const auto tensor_of = [&](const std::vector<int64_t>& numbers) {
    const std::array<int64_t, 1> size = {std::ssize(numbers)};
    const Tensor host = empty(size, ScalarType::Long, {});
    std::copy(numbers.begin(), numbers.end(), static_cast<int64_t*>(host.mutable_data_ptr()));
    if (place.is_cpu()) return host;
    const Tensor on_device = empty(size, ScalarType::Long, place);
    TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(on_device.get(), host.get(), /*non_blocking=*/1));
    return on_device;
  };
  // In a fixed order on every device, which index_add is not. The lengths are right: to check them waits for the
  // device.
  const Tensor of_rows = aten("aten::index_select", entry_grads, int64_t{0}, tensor_of(index.entry_of_rows()));
  return aten("aten::segment_reduce", of_rows, std::string("sum"),
              std::optional<Tensor>(tensor_of(index.entries_of_row())), /*indices=*/std::nullopt,
              /*offsets=*/std::nullopt, /*axis=*/int64_t{0}, /*unsafe=*/true, /*initial=*/std::nullopt);
}

}  // namespace longstride::op
