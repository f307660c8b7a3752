// The subcommands of `longstride`: each file of this folder that carries one defines one of these functions, and
// main.cc calls them all. A function adds its subcommand with its options to `app` and sets a callback that does the
// work.
//
// A callback returns normally when it succeeded, throws longstride::Error (or CLI::ValidationError) for bad input, and
// any other std::exception for a failure at run time; main.cc prints the message and picks the exit code. Only an
// outcome that is no error writes `exit_code` itself (kInterrupted after Ctrl-C).
#pragma once

#include <CLI/CLI.hpp>

namespace longstride::cli {

enum ExitCode : int {
  kOk = 0,
  kFailure = 1,       // something went wrong while running: disk full, out of memory, a loss that is no number
  kBadUsage = 2,      // unknown option, missing file, corrupt checkpoint, a value out of range
  kInterrupted = 130  // Ctrl-C; what was asked to be saved is saved
};

void add_train(CLI::App& app, int& exit_code);
void add_generate(CLI::App& app, int& exit_code);
void add_eval(CLI::App& app, int& exit_code);
void add_bench(CLI::App& app, int& exit_code);
void add_compare(CLI::App& app, int& exit_code);
void add_show(CLI::App& app, int& exit_code);
void add_doctor(CLI::App& app, int& exit_code);

}  // namespace longstride::cli
