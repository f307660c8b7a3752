// The stream of one call and device memory for its length: from the caller's workspace, or from the stream's own pool
// if it brought none. Used by the launches.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <string>
#include <tuple>
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
    return static_cast<T*>(memory(rounded(count * sizeof(T)) + kAlignment));
  }
  // Arrays in one piece of memory, which takes the host as long as one array.
  template <class... T>
  std::tuple<T*...> take_together(const std::array<size_t, sizeof...(T)>& counts) {
    constexpr size_t kSizes[] = {sizeof(T)...};
    std::array<size_t, sizeof...(T)> at;
    size_t end = 0;
    for (size_t i = 0; i < sizeof...(T); ++i) {
      at[i] = end;
      end += rounded(counts[i] * kSizes[i]);
    }
    auto* const first = static_cast<unsigned char*>(memory(end + kAlignment));
    size_t i = 0;
    return {reinterpret_cast<T*>(first + at[i++])...};
  }

 private:
  static constexpr size_t kAlignment = 256;
  static size_t rounded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

  void* memory(size_t bytes) {
    void* memory = nullptr;
    if (workspace_.allocate) {
      memory = workspace_.allocate(bytes);
      if (memory == nullptr) throw Error("the workspace gave no memory for " + std::to_string(bytes) + " bytes");
    } else {
      check(cudaMallocAsync(&memory, bytes, stream_), "scratch memory");
    }
    owned_.push_back(memory);
    return memory;
  }

  const Workspace& workspace_;
  cudaStream_t stream_;
  std::vector<void*> owned_;
};

}  // namespace longstride::engine::cuda
