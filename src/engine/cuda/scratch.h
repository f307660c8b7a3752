// The stream of one call and device memory for its length: from the caller's workspace, or from the stream's own pool
// if it brought none. Used by the launches.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

#include "engine/contract.h"
#include "engine/cuda/check.h"

namespace longstride::engine::cuda {

class Scratch {
 public:
  Scratch(const Workspace& workspace, Stream stream)
      : workspace_(workspace), stream_(static_cast<cudaStream_t>(stream)) {}
  ~Scratch() {
    for (void* memory : owned_) {
      if (workspace_.allocate) {
        workspace_.free(memory);
      } else {
        cudaFreeAsync(memory, stream_);
      }
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  cudaStream_t stream() const { return stream_; }

  template <class T>
  T* take(size_t count) {
    const size_t bytes = (count * sizeof(T) + 255) / 256 * 256 + 256;
    void* memory = nullptr;
    if (workspace_.allocate) {
      memory = workspace_.allocate(bytes);
      if (memory == nullptr) throw Error("the workspace gave no memory for " + std::to_string(bytes) + " bytes");
    } else {
      check(cudaMallocAsync(&memory, bytes, stream_), "scratch memory");
    }
    owned_.push_back(memory);
    return static_cast<T*>(memory);
  }

 private:
  const Workspace& workspace_;
  cudaStream_t stream_;
  std::vector<void*> owned_;
};

}  // namespace longstride::engine::cuda
