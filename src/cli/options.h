// Values on the command line, refused while it is read, and the options that several commands have alike. Numbers are
// decimal, whole where a whole one is wanted, within a range that the option states, and refused in one form: what it
// must be, what it was, what to do. (CLI11 alone takes octal, wraps -1 and clamps what is beyond 64 bits.) Called by
// every command. Torch-free.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <string>

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

// An empty name is refused, where it would pass for an option that was not given.
CLI::Validator not_empty();

// A file to be written: refused if it cannot be (core/writable.h).
CLI::Validator output_file();

// An option whose value one of the above checks.
template <class Value>
CLI::Option* add(CLI::App& command, const char* name, Value& into, const char* help, const CLI::Validator& of) {
  return command.add_option(name, into, help)->transform(of);
}

// --device and --threads of train, eval and generate.
void add_device(CLI::App& command, std::string& device, int64_t& threads);
// --precision, and these two, of what runs a trained model.
void add_model_run(CLI::App& command, std::string& precision, std::string& device, int64_t& threads);

}  // namespace longstride::cli
