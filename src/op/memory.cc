// Memory of results and scratch. LibTorch's CPU allocator is malloc, and glibc hands blocks beyond 32 MiB back to the
// system when they are freed; the next call then waits for each of their pages to be mapped and cleared.
#include "op/memory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/sysinfo.h>

#include <atomic>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <unordered_set>

#include "core/checked.h"
#include "core/refuse.h"
#include "longstride/memory_pool.h"

namespace longstride::op {
namespace {

constexpr std::align_val_t kAlignment{UnifiedMemoryPool::kAlignmentBytes};

// What the full ABI sets.
std::atomic<LargeResult> make_large = nullptr;
std::atomic<ThrowOutOfMemory> throw_out_of_memory = nullptr;

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

}  // namespace

int64_t result_bytes(std::span<const int64_t> sizes, int64_t item_bytes) {
  int64_t bytes = item_bytes;
  for (const int64_t size : sizes) bytes = core::saturating_multiply(bytes, size);
  if (bytes > kLargeBytes && bytes > machine_bytes())
    core::refuse("the result", fmt::format("must be at most {} bytes, all the memory of this machine", machine_bytes()),
                 fmt::format("[{}] of {} bytes each", fmt::join(sizes, ", "), item_bytes));
  return bytes;
}

void* take_from_pool(int64_t bytes) { return process_memory_pool().allocate(bytes); }
void return_to_pool(void* data) { process_memory_pool().free(data); }

void set_large_result(LargeResult make) { make_large = make; }
LargeResult large_result() { return make_large; }

void set_out_of_memory(ThrowOutOfMemory function) { throw_out_of_memory = function; }

void out_of_memory(int64_t bytes, Place place) {
  const std::string text = fmt::format(
      "{} out of memory. longstride asked LibTorch for {} bytes on {} and got none: give fewer batch rows, heads or "
      "tokens at a time, or free tensors that are no longer needed",
      place.is_cuda() ? "CUDA" : "CPU", bytes, op::text(place));
  if (const ThrowOutOfMemory function = throw_out_of_memory) function(text);
  throw std::runtime_error(text);
}

void lend_memory(engine::Workspace& space) {
  // Of this workspace, which one call uses on one thread.
  const auto pooled = std::make_shared<std::unordered_set<void*>>();
  space.allocate = [pooled](size_t bytes) {
    if (bytes <= static_cast<size_t>(kLargeBytes)) return ::operator new(bytes, kAlignment);
    void* data = take_from_pool(bytes);
    pooled->insert(data);
    return data;
  };
  space.free = [pooled](void* data) {
    if (pooled->erase(data) > 0) {
      return_to_pool(data);
    } else {
      ::operator delete(data, kAlignment);
    }
  };
}

}  // namespace longstride::op
