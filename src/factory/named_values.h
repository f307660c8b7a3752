// Named options as JSON, which is how this room reads them, and devices and dtypes by name. Called by the builders,
// auto and the legacy constructors.
#pragma once

#include <ATen/core/Tensor.h>

#include "longstride/factory/options.h"
#include "nn/json_fields.h"

namespace longstride::factory {

// Numbers stay what they are, a NaN among them: what takes them says what they must be.
nn::Json json_of(const OptionValue& value);
// Unset ones are left out.
nn::Json json_of(const NamedOptions& options);
OptionValue option_of(const std::string& name, const nn::Json& value);  // the name is for messages
NamedOptions options_of(const nn::Json& object);

// "cpu", "cuda", "cuda:1". Throws Error.
at::Device device_of(const std::string& text);
// The same, and weights can be there: this torch and machine have it.
at::Device place_of(const std::string& text);
// "float32", "float64", "bfloat16", "float16". Throws Error with the nearest.
at::ScalarType dtype_of(const std::string& text);

}  // namespace longstride::factory
