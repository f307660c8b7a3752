// Devices and dtypes by name. Called by the builders and the legacy constructors.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace longstride::factory {

// "cpu", "cuda", "cuda:1". Throws Error.
at::Device device_of(const std::string& text);
// The same, and weights can be there: this torch and machine have it.
at::Device place_of(const std::string& text);
// "float32", "float64", "bfloat16", "float16". Throws Error with the nearest.
at::ScalarType dtype_of(const std::string& text);

}  // namespace longstride::factory
