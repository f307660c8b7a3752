// Ends of ranges of what people give, far beyond any use and small enough that their sums and products fit. Called by
// the options of the program and the settings of a run.
#pragma once

#include <cstdint>

namespace longstride::core {

constexpr int64_t kMostThreads = 4096;
constexpr int64_t kMostHeads = 65536;
constexpr int64_t kMostTokens = int64_t{1} << 40;
constexpr int64_t kMostSteps = 1'000'000'000'000;
constexpr int64_t kMostWindows = 1'000'000'000;

}  // namespace longstride::core
