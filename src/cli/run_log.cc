// See run_log.h.
#include "run_log.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "json_text.h"
#include "longstride/error.h"

namespace longstride::cli {

RunLog::RunLog(const std::string& path, bool append) : path_(path) {
  if (path.empty()) return;
  out_.open(path, append ? std::ios::app : std::ios::trunc);
  if (!out_) throw Error(fmt::format("cannot write --log '{}': {}", path, std::strerror(errno)));
}

void RunLog::write(const nlohmann::json& line) {
  if (path_.empty()) return;
  out_ << json_text(line) << "\n" << std::flush;
  if (!out_) throw std::runtime_error(fmt::format("cannot write the log '{}'", path_));
}

}  // namespace longstride::cli
