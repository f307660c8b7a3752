// Appends whole lines and takes a torn one back (run_log.h).
#include "train/run_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "core/files.h"
#include "core/json.h"
#include "longstride/error.h"

namespace longstride::train {

RunLog::RunLog(const std::string& path, bool append, std::function<void(const std::string&)> note)
    : path_(path), note_(std::move(note)) {
  if (path.empty()) return;
  file_ = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (append ? 0 : O_TRUNC), 0666);
  if (file_ < 0) throw Error(fmt::format("cannot write --log '{}': {}", path, std::strerror(errno)));
}

RunLog::~RunLog() {
  if (file_ >= 0) close(file_);
}

int RunLog::append(const std::string& text) {
  struct stat before {};
  const bool cuttable = fstat(file_, &before) == 0 && S_ISREG(before.st_mode);
  std::string_view left = text;
  const int reason = core::write_all(file_, left);
  if (reason == 0) torn_ = false;
  const bool partly = reason != 0 && left.size() < text.size();
  if (partly && !(cuttable && ftruncate(file_, before.st_size) == 0)) torn_ = true;
  return reason;
}

void RunLog::write(const nlohmann::json& line) {
  if (path_.empty()) return;
  const int reason = append(fmt::format("{}{}\n", torn_ ? "\n" : "", core::json_text(line)));
  if (reason == 0 || ++dropped_ > 1 || !note_) return;
  note_(fmt::format("cannot write the log '{}': {}; the run goes on, with lines missing from the log", path_,
                    std::strerror(reason)));
}

}  // namespace longstride::train
