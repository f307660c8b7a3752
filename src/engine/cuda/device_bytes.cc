#include "engine/cuda/device_bytes.h"

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "engine/cuda/check.h"
#include "engine/cuda/slabs.h"

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

// For copies to the current device, made once and kept. Not the default stream, which waits for others and may not be
// used while one of them is recorded.
cudaStream_t copy_stream(int device) {
  static std::mutex mutex;
  static std::map<int, cudaStream_t> streams;
  const std::lock_guard lock(mutex);
  cudaStream_t& stream = streams[device];
  if (stream == nullptr) check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream for a copy");
  return stream;
}

void* device_memory(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory for plans");
  return memory;
}

// Never destroyed: plans that live as long as the process are released after it would be.
Slabs& slabs() {
  static Slabs& all = *new Slabs({device_memory, [](void* memory) { cudaFree(memory); }});
  return all;
}

}  // namespace

void* uploaded(std::span<const char> bytes, const char* what) {
  if (bytes.empty()) return nullptr;
  const BesideCapture beside;
  int device = 0;
  check(cudaGetDevice(&device), what);
  const cudaStream_t stream = copy_stream(device);
  struct Release {
    void operator()(void* memory) const { slabs().release(memory); }
  };
  std::unique_ptr<void, Release> held(slabs().cut(device, bytes.size()));
  const std::string copying = std::string("copying ") + what;
  check(cudaMemcpyAsync(held.get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream), copying.c_str());
  check(cudaStreamSynchronize(stream), copying.c_str());
  return held.release();
}

void release_uploaded(void* memory) {
  const BesideCapture beside;
  slabs().release(memory);
}

}  // namespace longstride::engine::cuda
