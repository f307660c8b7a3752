// The questions of device.h, put to the CUDA runtime.
#include "engine/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/check.h"
#include "engine/cuda/per_device.h"

namespace longstride::engine::cuda {

int architecture(int device) {
  static PerDevice known;
  return known.of(device, [device] {
    int major = 0, minor = 0;
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
    return 10 * major + minor;
  });
}

int device_count(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  *why = error == cudaSuccess ? "no CUDA device" : cudaGetErrorString(error);
  return 0;
}

std::string device_name(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "device properties");
  return properties.name;
}

namespace {
// An attribute, one a table, of the current device.
int32_t known(PerDevice& table, cudaDeviceAttr attribute, const char* what) {
  int device = 0;
  check(cudaGetDevice(&device), "device");
  return table.of(device, [&] {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device), what);
    return value;
  });
}
}  // namespace

int32_t multiprocessors() {
  static PerDevice table;
  return known(table, cudaDevAttrMultiProcessorCount, "multiprocessors");
}

int32_t shared_bytes_of_block() {
  static PerDevice table;
  return known(table, cudaDevAttrMaxSharedMemoryPerBlockOptin, "shared memory of a block");
}

int32_t workers(const Problem& p, Direction direction) {
  const int64_t heads = p.batch * (direction == Direction::kForward ? p.heads : p.kv_heads);
  return static_cast<int32_t>(std::max<int64_t>(1, multiprocessors() / std::max<int64_t>(1, heads)));
}

bool capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "capture status");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace longstride::engine::cuda
