// Memory on the device that outlives a call, filled once: plans and tables. What is done here is no part of a graph
// that some stream may be recording meanwhile.
#pragma once

#include <cstddef>
#include <span>

namespace longstride::engine::cuda {

// Device memory with these bytes in it, there on return; null for none. Throws Error, which names `what`.
void* uploaded(std::span<const char> bytes, const char* what);
// Waits for kernels that still read it.
void release_uploaded(void*);

}  // namespace longstride::engine::cuda
