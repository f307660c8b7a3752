// What a tensor must be before anything reads it: a dense one, with its memory there. For every tensor that a call is
// given.
#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace longstride::op {

// Whether there is memory behind a tensor: not on the meta device, nor while a graph is traced.
bool has_data(const at::Tensor&);

// Refuses an undefined tensor and those that are no array: sparse, nested, quantized, of another library's layout.
void check_dense(std::string_view name, const at::Tensor&);

// The same, and those with less memory than their sizes say, as after storage().resize_(0).
void check_handed_in(std::string_view name, const at::Tensor&);

}  // namespace longstride::op
