// Large results of the CPU kernels, and what is thrown where memory ends.
#pragma once

#include <ATen/core/Tensor.h>

namespace longstride::op::autograd {

// A contiguous CPU tensor whose values are yet to be written. One beyond kLargeBytes has memory of the process's pool,
// to which it returns with its last reference, and so does what it is resized to. Throws Error for more than the
// machine's memory, std::bad_alloc where there is no more.
at::Tensor empty_result(at::IntArrayRef sizes, at::ScalarType);

// Makes the kernels take their large results from here, and throw c10::OutOfMemoryError where LibTorch has no memory.
void install_memory();

}  // namespace longstride::op::autograd
