// Large results of the CPU kernels.
#pragma once

#include <ATen/core/Tensor.h>

namespace longstride::op::autograd {

// A contiguous CPU tensor whose values are yet to be written. One beyond kLargeBytes has memory of the process's pool,
// to which it returns with its last reference, and so does what it is resized to. Throws Error for more than the
// machine's memory, std::bad_alloc where there is no more.
at::Tensor empty_result(at::IntArrayRef sizes, at::ScalarType);

// Makes the CPU kernels take their large results from here.
void install_large_results();

}  // namespace longstride::op::autograd
