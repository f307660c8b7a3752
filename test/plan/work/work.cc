// The counters behind work.h. This file alone is not instrumented: it would count itself, without end.
#include "test/plan/work/work.h"

#include <cstdlib>
#include <new>

namespace {

thread_local int64_t steps = 0;
thread_local int64_t bytes = 0;

void* counted(std::size_t size, std::size_t alignment) {
  bytes += static_cast<int64_t>(size);
  const std::size_t whole = (size + alignment - 1) / alignment * alignment;
  if (void* memory = std::aligned_alloc(alignment, whole > 0 ? whole : alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

// The compiler calls it at the begin of every basic block of instrumented code.
extern "C" void __sanitizer_cov_trace_pc();
void __sanitizer_cov_trace_pc() { ++steps; }

// The array forms and those that do not throw call these.
void* operator new(std::size_t size) { return counted(size, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

namespace longstride::test {

Work work_so_far() { return {steps, bytes}; }

}  // namespace longstride::test
