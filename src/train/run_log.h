// The log of a run: one JSON object a line, written out at once and wholly or not at all, so that a killed run leaves
// whole lines. Called by the trainer.
// Torch-free.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

namespace longstride::train {

class RunLog {
 public:
  // An empty path: every write is a no-op. append: a resumed run goes on in its file. `note` is told of the first line
  // that cannot be written; it may be empty. Throws Error if the file cannot be opened.
  RunLog(const std::string& path, bool append, std::function<void(const std::string&)> note);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;
  // A line that cannot be written (a full disk, a pipe that nobody reads) is dropped; later lines are tried
  // again.
  void write(const nlohmann::json& line);
  int64_t dropped() const { return dropped_; }

 private:
  // 0, or the errno of why nothing of `text` stands in the file now.
  int append(const std::string& text);

  std::string path_;
  std::function<void(const std::string&)> note_;
  int file_ = -1;
  bool torn_ = false;  // the file ends in a part of a line that could not be taken back
  int64_t dropped_ = 0;
};

}  // namespace longstride::train
