// Checks of paths for CLI11, before any work (file_options.h).
#include "file_options.h"

#include "core/writable.h"

namespace longstride::cli {

CLI::Validator not_empty() {
  return CLI::Validator(
      [](std::string& given) {
        return std::string(given.empty() ? "must not be empty, got ''; leave the option out or name something" : "");
      },
      "");
}

CLI::Validator output_file() {
  return CLI::Validator([](std::string& given) { return core::why_not_writable(given); }, "");
}

}  // namespace longstride::cli
