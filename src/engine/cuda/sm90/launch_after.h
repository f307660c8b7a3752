// Launches of which one reads what another wrote.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/cuda/check.h"

namespace longstride::engine::cuda::sm90 {

// Launches a kernel. `early`: its blocks may come to processors as soon as those of the launch before leave them; it
// must say griddepcontrol.wait before it reads or writes what that launch does (programmatic dependent launch).
template <class... Params, class... Values>
void launch_after(bool early, void (*kernel)(Params...), int64_t blocks, int threads, size_t shared_bytes,
                  cudaStream_t stream, const char* what, const Values&... values) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, values...), what);
}

}  // namespace longstride::engine::cuda::sm90
