// Tensors over the pool of large results, in LibTorch's full ABI (results.h).
#include "op/autograd/results.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>

#include "op/memory.h"

namespace longstride::op::autograd {
namespace {

// What a storage is resized with: its new memory comes from where a result of that size would.
class ResultAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes <= static_cast<size_t>(kLargeBytes)) return c10::GetCPUAllocator()->allocate(bytes);
    void* data = take_from_pool(bytes);
    return {data, data, &return_to_pool, at::Device(at::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

ResultAllocator& result_allocator() {
  static auto* const allocator = new ResultAllocator;  // never destroyed: tensors may outlive every static object
  return *allocator;
}

// The kernels' tensor handles are at::Tensor*, as torch/csrc/inductor/aoti_torch/utils.h has them.
void* large_tensor(std::span<const int64_t> sizes, ScalarType dtype) {
  return new at::Tensor(empty_result({sizes.data(), sizes.size()}, dtype));
}

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, at::ScalarType dtype) {
  const int64_t bytes = result_bytes({sizes.data(), sizes.size()}, c10::elementSize(dtype));
  if (bytes <= kLargeBytes) return at::empty(sizes, dtype);
  return at::detail::empty_generic(sizes, &result_allocator(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype,
                                   std::nullopt);
}

void install_memory() {
  set_large_result(large_tensor);
  set_out_of_memory([](const std::string& text) { TORCH_CHECK_WITH(OutOfMemoryError, false, text); });
}

}  // namespace longstride::op::autograd
