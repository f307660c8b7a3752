// Memory of one call, measured in a process of its own, so that nothing that earlier cases left in pools hides what the
// call needs. Called by bench.cc.
#pragma once

#include <cstdint>
#include <string>

#include "bench_case.h"

namespace longstride::cli {

// Starts this program again as `longstride bench --memory-of WHO ...` and reads what it prints: measure_extra_bytes().
// -1 where it cannot be measured. Throws std::runtime_error when the process cannot be started or fails.
int64_t extra_bytes_in_own_process(const BenchCase& bench_case, const std::string& who, int64_t threads);

}  // namespace longstride::cli
