// Descriptors 0 to 2 are held open, and a flush that fails is an error (standard_streams.h).
#include "standard_streams.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <stdexcept>
#include <string_view>

#include "core/files.h"

namespace longstride::cli {

void hold_standard_files() {
  // Opened the wrong way round, so that use of 0 and 1 fails as with a closed one. There is nobody to tell that
  // standard error is closed.
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest that is free, which is this one.
    if (open("/dev/null", descriptor == STDOUT_FILENO ? O_RDONLY : O_WRONLY) < 0) return;
  }
}

void flush_output() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return;
  const int reason = errno;
  throw std::runtime_error(fmt::format("not all of the output could be written to standard output{}",
                                       reason == 0 ? "" : fmt::format(": {}", std::strerror(reason))));
}

void tell_text(const std::string& text) {
  std::string_view left = text;
  (void)core::write_all(STDERR_FILENO, left);
}

}  // namespace longstride::cli
