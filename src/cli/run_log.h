// The log of a run: one JSON object a line, written out at once and wholly or not at all, so that a killed run leaves
// whole lines. Called by train. Torch-free.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace longstride::cli {

class RunLog {
 public:
  // An empty path: every write is a no-op. append: a resumed run goes on in its file. Throws Error if it cannot be
  // opened.
  RunLog(const std::string& path, bool append);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;
  // A line that cannot be written (a full disk, a pipe that nobody reads) is dropped; the first one is told on standard
  // error, and later lines are tried again.
  void write(const nlohmann::json& line);
  int64_t dropped() const { return dropped_; }

 private:
  // 0, or the errno of why nothing of `text` stands in the file now.
  int append(const std::string& text);

  std::string path_;
  int file_ = -1;
  bool torn_ = false;  // the file ends in a part of a line that could not be taken back
  int64_t dropped_ = 0;
};

}  // namespace longstride::cli
