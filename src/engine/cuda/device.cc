// The questions of device.h, put to the CUDA runtime.
#include "engine/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/check.h"

namespace longstride::engine::cuda {

int architecture(int device) {
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "compute capability");
  return 10 * major + minor;
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

int32_t multiprocessors() {
  int device = 0, processors = 0;
  check(cudaGetDevice(&device), "device");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
  return processors;
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
