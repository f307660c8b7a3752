// The log of a run: one JSON object a line, written out at once, so that a killed run leaves whole lines. Called by
// train. Torch-free.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

namespace longstride::cli {

class RunLog {
 public:
  // An empty path: every write is a no-op. append: a resumed run goes on in its file. Throws Error if it cannot be
  // opened.
  RunLog(const std::string& path, bool append);
  // Throws std::runtime_error when the line cannot be written.
  void write(const nlohmann::json& line);

 private:
  std::string path_;
  std::ofstream out_;
};

}  // namespace longstride::cli
