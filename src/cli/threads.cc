// See threads.h.
#include "threads.h"

#include <ATen/Parallel.h>

namespace longstride::cli {

int64_t use_threads(int64_t threads) {
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  return at::get_num_threads();
}

}  // namespace longstride::cli
