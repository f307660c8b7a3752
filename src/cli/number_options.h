// Numbers on the command line: decimal, whole where a whole one is wanted, within a range that the option states, and
// refused in one form: what it must be, what it was, what to do. (CLI11 alone takes octal, wraps -1 and clamps what is
// beyond 64 bits.) Called by every command. Torch-free.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

#include "core/limits.h"

namespace longstride::cli {

using core::kMostHeads, core::kMostSteps, core::kMostThreads, core::kMostTokens, core::kMostWindows;
// No range but that of the type: where another room has one of its own.
constexpr int64_t kLeastWhole = std::numeric_limits<int64_t>::min(), kMostWhole = std::numeric_limits<int64_t>::max();

// A whole number in [low, high].
CLI::Validator whole_number(int64_t low, int64_t high);

// The same where 'k' is 1024 and 'm' is 1024 * 1024: 32k, 1m, 4096.
CLI::Validator token_count(int64_t low, int64_t high = kMostTokens);

// A seed: any whole number of 64 bits without a sign.
CLI::Validator seed_number();

// A finite number in [low, high].
CLI::Validator real_number(double low, double high);

// A finite number above 0 and at most `high`.
CLI::Validator positive_number(double high);

}  // namespace longstride::cli
