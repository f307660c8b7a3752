// One line about where a command runs. Called by train, generate and eval.
#pragma once

#include <cstdint>
#include <string>

#include "longstride/nn.h"
#include "threads.h"

namespace longstride::cli {

// "2 threads of 2, AVX512, LibTorch 2.13.0, engine cpu": `bf16` and the model decide the engine.
std::string machine_line(const LongNetLMConfig& config, int64_t context, bool bf16);

// The most memory this process has had resident so far.
int64_t peak_memory_bytes();

}  // namespace longstride::cli
