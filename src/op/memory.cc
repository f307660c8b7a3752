// See memory.h. LibTorch's CPU allocator is malloc, and glibc hands blocks beyond 32 MiB back to the system when they
// are freed; the next call then waits for each of their pages to be mapped and cleared.
#include "op/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/Functions.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/sysinfo.h>

#include <limits>
#include <memory>
#include <unordered_set>

#include "core/checked.h"
#include "core/refuse.h"
#include "longstride/memory_pool.h"

namespace longstride::op {
namespace {

constexpr size_t kLarge = size_t{32} << 20;

// Memory and swap.
int64_t machine_bytes() {
  static const int64_t bytes = [] {
    struct sysinfo info {};
    const bool known = sysinfo(&info) == 0;
    return known ? core::saturating_multiply(static_cast<int64_t>(info.totalram + info.totalswap), info.mem_unit)
                 : std::numeric_limits<int64_t>::max() - 1;
  }();
  return bytes;
}

void give_back(void* data) { process_memory_pool().free(data); }

// What a storage is resized with: its new memory comes from where a result of that size would.
class ResultAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes <= kLarge) return c10::GetCPUAllocator()->allocate(bytes);
    void* data = process_memory_pool().allocate(static_cast<int64_t>(bytes));
    return {data, data, &give_back, at::Device(at::kCPU)};
  }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

ResultAllocator& result_allocator() {
  static auto* const allocator = new ResultAllocator;  // never destroyed: tensors may outlive every static object
  return *allocator;
}

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options) {
  auto bytes = static_cast<int64_t>(options.dtype().itemsize());
  for (const int64_t size : sizes) bytes = core::saturating_multiply(bytes, size);
  if (!options.device().is_cpu() || bytes <= static_cast<int64_t>(kLarge)) return at::empty(sizes, options);
  if (bytes > machine_bytes())
    core::refuse("the result", fmt::format("must be at most {} bytes, all the memory of this machine", machine_bytes()),
                 fmt::format("[{}] of {} bytes each", fmt::join(sizes, ", "), options.dtype().itemsize()));
  return at::detail::empty_generic(sizes, &result_allocator(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   c10::typeMetaToScalarType(options.dtype()), std::nullopt);
}

void lend_memory(engine::Workspace& space) {
  // Of this workspace, which one call uses on one thread.
  const auto pooled = std::make_shared<std::unordered_set<void*>>();
  space.allocate = [pooled](size_t bytes) {
    if (bytes <= kLarge) return c10::alloc_cpu(bytes);
    void* data = process_memory_pool().allocate(static_cast<int64_t>(bytes));
    pooled->insert(data);
    return data;
  };
  space.free = [pooled](void* data) {
    if (pooled->erase(data) > 0) {
      give_back(data);
    } else {
      c10::free_cpu(data);
    }
  };
}

}  // namespace longstride::op
