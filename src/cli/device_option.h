// --device of train, eval and generate.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace longstride::cli {

inline CLI::Option* add_device(CLI::App& app, std::string& device) {
  return app.add_option("--device", device, "cpu, cuda (of several ranks each its own GPU) or cuda:1")
      ->capture_default_str();
}

}  // namespace longstride::cli
