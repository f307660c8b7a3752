#include "engine/cuda/device_bytes.h"

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "engine/cuda/check.h"

namespace longstride::engine::cuda {
namespace {

// While it lives, this thread may take memory and copy although some stream is being recorded into a graph: what is
// done here is no part of the graph.
class BesideCapture {
 public:
  BesideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCapture(const BesideCapture&) = delete;
  BesideCapture& operator=(const BesideCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

class CopyStream {
 public:
  // Not the default stream, which waits for others and may not be used while one of them is recorded.
  CopyStream() { check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream for a copy"); }
  ~CopyStream() { cudaStreamDestroy(stream); }
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;
  cudaStream_t stream = nullptr;
};

}  // namespace

void* uploaded(std::span<const char> bytes, const char* what) {
  if (bytes.empty()) return nullptr;
  const BesideCapture beside;
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes.size()), (std::string("memory for ") + what).c_str());
  struct Free {
    void operator()(void* unused) const { cudaFree(unused); }
  };
  std::unique_ptr<void, Free> held(memory);
  const std::string copying = std::string("copying ") + what;
  const CopyStream own;
  check(cudaMemcpyAsync(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, own.stream), copying.c_str());
  check(cudaStreamSynchronize(own.stream), copying.c_str());
  return held.release();
}

void release_uploaded(void* memory) {
  const BesideCapture beside;
  cudaFree(memory);
}

}  // namespace longstride::engine::cuda
