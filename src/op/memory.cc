// See memory.h. LibTorch's CPU allocator is malloc, and glibc hands blocks beyond 32 MiB back to the system when they
// are freed; the next call then waits for each of their pages to be mapped and cleared.
#include "op/memory.h"

#include <ATen/Functions.h>
#include <c10/core/impl/alloc_cpu.h>

#include <memory>
#include <unordered_set>

#include "longstride/memory_pool.h"

namespace longstride::op {
namespace {

constexpr size_t kLarge = size_t{32} << 20;

}  // namespace

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const auto bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (!options.device().is_cpu() || bytes <= kLarge) return at::empty(sizes, options);
  auto lease = std::make_shared<UnifiedMemoryPool::Lease>(process_memory_pool().lease(static_cast<int64_t>(bytes)));
  return at::from_blob(
      lease->data(), sizes, [lease](void*) { lease->reset(); }, options);
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
      process_memory_pool().free(data);
    } else {
      c10::free_cpu(data);
    }
  };
}

}  // namespace longstride::op
