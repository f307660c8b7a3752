// The device that a run computes on. Called by the trainer and every command that computes.
#pragma once

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

}  // namespace longstride::train
