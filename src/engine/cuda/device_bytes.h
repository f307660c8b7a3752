// Memory on the device that outlives a call, filled once: plans and tables. What is done here is no part of a graph
// that some stream may be recording meanwhile.
#pragma once

#include <cstddef>
#include <span>

namespace longstride::engine::cuda {

// Memory of the current device with these bytes in it, there on return; null for none. Throws Error, which names
// `what`.
void* uploaded(std::span<const char> bytes, const char* what);
// Kernels that still read it, on any stream, find it as it was; now and then it waits for them (slabs.h).
void release_uploaded(void*);

}  // namespace longstride::engine::cuda
