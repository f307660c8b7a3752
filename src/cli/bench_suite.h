// The cases that longstride is held against, with their bars. Called by bench.cc. Torch-free.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bench_report.h"

namespace longstride::cli {

// "cpu": LongNet's segments 2048 to 32768 at 32768 tokens against the official pipeline, the fairness of that peer at
// 16384 tokens, and one group as plain attention against dense SDPA. Throws Error for another name.
std::vector<std::pair<BenchCase, Bar>> suite_cases(const std::string& name);

}  // namespace longstride::cli
