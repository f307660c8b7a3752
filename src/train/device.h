// Where a run computes: device, autocast, threads, memory, and one line about it. Called by the trainer and every
// command that computes.
#pragma once

#include <ATen/autocast_mode.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "longstride/nn.h"

namespace longstride::train {

// The device that `words` name: "cpu", "cuda" (the first GPU) or "cuda:1". Nothing is asked of the machine. Throws
// Error, as use_device does, which names --device.
at::Device device_named(const std::string& words);

// The same, which must be there: LibTorch's half for GPUs is loaded, and the GPU becomes the process's current one.
at::Device use_device(const std::string& words);

// Where the parameters lie.
at::Device device_of(const LongNetLM& model);

// Seeds the generator of a GPU, which no checkpoint holds; does nothing on the CPU.
void seed_gpu(at::Device device, uint64_t seed);

// The most bytes that tensors on a GPU have taken so far; 0 of the CPU.
int64_t peak_bytes_on(at::Device device);

// "2 threads on 2 processors, AVX512, LibTorch 2.13.0, fp32, engine cpu", of a GPU "cuda:0 (NVIDIA H200), LibTorch
// ...": the device, `bf16` and the model decide the engine.
std::string machine_line(const LongNetLMConfig& config, int64_t context, bool bf16, at::Device device);

// Sets LibTorch's threads; 0 leaves its own choice. Returns the number in use.
int64_t use_threads(int64_t threads);

// The most memory this process has had resident so far.
int64_t peak_memory_bytes();

// bfloat16 autocast on one type of device for a scope, as torch.autocast("cpu", dtype=torch.bfloat16) is in Python.
class AutocastGuard {
 public:
  AutocastGuard(bool bf16, at::DeviceType device) : active_(bf16), device_(device) {
    if (!active_) return;
    was_enabled_ = at::autocast::is_autocast_enabled(device_);
    was_dtype_ = at::autocast::get_autocast_dtype(device_);
    at::autocast::set_autocast_enabled(device_, true);
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::increment_nesting();
  }
  ~AutocastGuard() {
    if (!active_) return;
    // The cache holds bfloat16 copies of the weights, which the next optimizer step makes stale.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device_, was_enabled_);
    at::autocast::set_autocast_dtype(device_, was_dtype_);
  }
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  bool active_;
  at::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType was_dtype_ = at::kBFloat16;
};

}  // namespace longstride::train
