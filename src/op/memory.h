// Memory of results and scratch on the CPU. Results beyond kLargeBytes come from the process's pool, to which they
// return with their last reference. Torch-free.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/contract.h"
#include "op/array.h"

namespace longstride::op {

inline constexpr int64_t kLargeBytes = int64_t{32} << 20;

// Bytes of an array, and whether it is large. Throws Error for more than the machine's memory.
int64_t result_bytes(std::span<const int64_t> sizes, int64_t item_bytes);

// A block of the pool, and its way back.
void* take_from_pool(int64_t bytes);
void return_to_pool(void* data);

// Makes a contiguous CPU tensor of more than kLargeBytes: an at::Tensor* that its caller deletes. The full ABI sets
// this when it is loaded: its results can be resized in place, which the stable ABI has no words for.
using LargeResult = void* (*)(std::span<const int64_t> sizes, ScalarType);
void set_large_result(LargeResult);
LargeResult large_result();  // null if there is none

// Throws because LibTorch gave no memory. Its C interface only says that it failed; what LibTorch throws itself, and
// Python knows as torch.OutOfMemoryError, can be made by the full ABI, which sets this when it is loaded. Without it
// this is std::runtime_error of the same text, whose first words are LibTorch's: people's code looks for them.
[[noreturn]] void out_of_memory(int64_t bytes, Place);
using ThrowOutOfMemory = void (*)(const std::string& text);
void set_out_of_memory(ThrowOutOfMemory);

// Large scratch from the pool, the rest from the system.
void lend_memory(engine::Workspace&);

}  // namespace longstride::op
