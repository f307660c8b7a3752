// Named options as JSON, which is how this room reads them. Called by the builders, auto and the legacy constructors.
#pragma once

#include "longstride/factory/options.h"
#include "nn/json_fields.h"

namespace longstride::factory {

// Numbers stay what they are, a NaN among them: what takes them says what they must be.
nn::Json json_of(const OptionValue& value);
// Unset ones are left out.
nn::Json json_of(const NamedOptions& options);
OptionValue option_of(const std::string& name, const nn::Json& value);  // the name is for messages
NamedOptions options_of(const nn::Json& object);

}  // namespace longstride::factory
