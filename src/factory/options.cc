// OptionValue and its two faces, variant and JSON; devices and dtypes by name. See options.h and named_values.h.
#include "longstride/factory/options.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <type_traits>

#include "core/refuse.h"
#include "factory/named_values.h"

namespace longstride {

OptionValue OptionValue::json(std::string_view text) {
  return factory::option_of("option", core::parse_json("option", text));
}

std::string OptionValue::text() const { return nn::text_of(factory::json_of(*this), -1); }

NamedOptions options_from_json(std::string_view text) { return factory::options_of(nn::parse_object("options", text)); }

namespace factory {

nn::Json json_of(const OptionValue& value) {
  return std::visit(
      [](const auto& kept) -> nn::Json {
        using T = std::decay_t<decltype(kept)>;
        if constexpr (std::is_same_v<T, std::monostate>) {
          return {};
        } else if constexpr (std::is_same_v<T, OptionValue::Json>) {
          return core::parse_json("option", kept.text);
        } else {
          return kept;
        }
      },
      value.kept());
}

nn::Json json_of(const NamedOptions& options) {
  nn::Json object = nn::Json::object();
  for (const auto& [name, value] : options) {
    if (!value.is_unset()) object[name] = json_of(value);
  }
  return object;
}

OptionValue option_of(const std::string& name, const nn::Json& value) {
  if (value.is_null()) return {};
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number_integer()) {
    int64_t whole = 0;
    nn::read(name, value, whole);
    return whole;
  }
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) return value.get<std::string>();
  const auto whole = [](const nn::Json& entry) {
    return entry.is_number_integer() && !(entry.is_number_unsigned() && entry.get<uint64_t>() > INT64_MAX);
  };
  if (value.is_array() && std::all_of(value.begin(), value.end(), whole)) return value.get<std::vector<int64_t>>();
  OptionValue::Json json{nn::text_of(value, -1)};
  return OptionValue::nested(std::move(json));
}

NamedOptions options_of(const nn::Json& object) {
  NamedOptions options;
  for (const auto& [name, value] : object.items()) options[name] = option_of(name, value);
  return options;
}

at::Device device_of(const std::string& text) {
  try {
    return at::Device(text);
  } catch (const std::exception&) {
    core::refuse("device", "must be a device such as cpu or cuda:0", fmt::format("'{}'", text));
  }
}

at::Device place_of(const std::string& text) {
  const at::Device device = device_of(text);
  const bool known = !device.is_meta() && c10::impl::hasDeviceGuardImpl(device.type());
  if (!known || std::max<int>(device.index(), 0) >= c10::impl::getDeviceGuardImpl(device.type())->deviceCount())
    core::refuse("device", "must be one that this torch and machine have, to hold weights", fmt::format("'{}'", text),
                 "build the module on \"cpu\"");
  return device;
}

at::ScalarType dtype_of(const std::string& text) {
  const std::vector<std::pair<std::string, at::ScalarType>> types = {
      {"float32", at::kFloat}, {"float64", at::kDouble}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};
  std::vector<std::string> names;
  for (const auto& [name, type] : types) {
    if (text == name) return type;
    names.push_back(name);
  }
  core::refuse_unknown("dtype", text, names);
}

}  // namespace factory
}  // namespace longstride
