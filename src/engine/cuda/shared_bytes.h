// Lets a kernel have more shared memory than kernels have unasked. Called before every launch of such a one.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "engine/cuda/check.h"
#include "engine/cuda/per_device.h"

namespace longstride::engine::cuda {

// What each kernel is allowed where: a table a kernel, which is a template's argument for that.
template <auto kernel>
PerDevice& allowed_shared_bytes() {
  static PerDevice table;
  return table;
}

// Always the same number of bytes for a kernel: the driver is told once, of the current device.
template <auto kernel>
void allow_shared_bytes(int32_t bytes, const char* what) {
  int device = 0;
  check(cudaGetDevice(&device), "device");
  allowed_shared_bytes<kernel>().of(device, [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), what);
    return bytes;
  });
}

}  // namespace longstride::engine::cuda
