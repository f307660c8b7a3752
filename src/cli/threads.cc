// See threads.h.
#include "threads.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include "longstride/error.h"

namespace longstride::cli {

int64_t use_threads(int64_t threads) {
  if (threads < 0) throw Error(fmt::format("--threads must be at least 1, got {}", threads));
  if (threads > 4096) throw Error(fmt::format("--threads must be at most 4096, got {}", threads));
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  return at::get_num_threads();
}

}  // namespace longstride::cli
