// Writes whole lines to descriptor 2 and drops what cannot be written (standard_error.h).
#include "standard_error.h"

#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace longstride::cli {

void tell_text(const std::string& text) {
  std::string_view left = text;
  while (!left.empty()) {
    const ssize_t done = write(STDERR_FILENO, left.data(), left.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return;
    left.remove_prefix(static_cast<size_t>(done));
  }
}

}  // namespace longstride::cli
