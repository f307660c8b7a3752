// Where a run computes: threads, memory, and one line about it. Called by the trainer and every command that computes.
#pragma once

#include <cstdint>
#include <string>

#include "longstride/nn.h"

namespace longstride::train {

// "2 threads on 2 processors, AVX512, LibTorch 2.13.0, fp32, engine cpu", of a GPU "cuda:0 (NVIDIA H200), LibTorch
// ...": the device, `bf16` and the model decide the engine.
std::string machine_line(const LongNetLMConfig& config, int64_t context, bool bf16, at::Device device);

// Sets LibTorch's threads; 0 leaves its own choice. Returns the number in use.
int64_t use_threads(int64_t threads);

// The most memory this process has had resident so far.
int64_t peak_memory_bytes();

}  // namespace longstride::train
