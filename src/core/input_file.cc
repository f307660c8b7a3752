// Reads a whole file that a user named, by the system's own calls, for streams say neither that a file is a folder nor
// why they fail.
#include "core/input_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "longstride/error.h"

namespace longstride::core {
namespace {

[[noreturn]] void refuse(const std::string& argument, const std::string& path, int reason) {
  const std::string named = argument.empty() ? "" : fmt::format(" ({})", argument);
  if (reason == ENOENT || path.empty()) throw Error(fmt::format("no such file: '{}'{}", path, named));
  if (reason == EISDIR) throw Error(fmt::format("'{}'{} is a folder; name a file", path, named));
  throw Error(fmt::format("cannot read '{}'{}: {}", path, named, std::strerror(reason)));
}

// What is left of an open file, and 0 or the errno that ended it.
std::pair<std::string, int> rest_of(int file) {
  std::string bytes;
  char chunk[1 << 16];
  for (;;) {
    const ssize_t got = read(file, chunk, sizeof chunk);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return {std::move(bytes), got < 0 ? errno : 0};
    bytes.append(chunk, got);
  }
}

}  // namespace

std::string read_input(const std::string& argument, const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) refuse(argument, path, errno);
  auto [bytes, reason] = rest_of(file);
  close(file);
  if (reason != 0) refuse(argument, path, reason);
  return std::move(bytes);
}

std::string read_standard_input(const std::string& argument) {
  auto [bytes, reason] = rest_of(STDIN_FILENO);
  if (reason != 0) throw Error(fmt::format("cannot read standard input ({} -): {}", argument, std::strerror(reason)));
  return std::move(bytes);
}

}  // namespace longstride::core
