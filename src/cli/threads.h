// How many threads a command uses. Called by every command that computes.
#pragma once

#include <cstdint>

namespace longstride::cli {

// Sets LibTorch's threads; 0 leaves its own choice. Throws Error if negative. Returns the number in use.
int64_t use_threads(int64_t threads);

}  // namespace longstride::cli
