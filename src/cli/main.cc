// The program `longstride`: builds the command line, runs the chosen subcommand, and turns what it throws into one line
// on stderr and an exit code (commands.h).
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "commands.h"
#include "core/refuse.h"
#include "longstride/error.h"
#include "rank_groups.h"
#include "standard_streams.h"

namespace longstride::cli {
namespace {

constexpr const char* kVersion = "longstride " LONGSTRIDE_VERSION;
constexpr const char* kOutOfMemory =
    "out of memory; a shorter length or --context, a smaller model or --checkpoint-activations needs less";

// The words that could have stood where `given` stood: long options of the command, or the names of the subcommands.
std::vector<std::string> known_words(const CLI::App& command, const std::string& given) {
  std::vector<std::string> words;
  if (given.rfind("-", 0) == 0) {
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
    }
  } else {
    for (const CLI::App* sub : command.get_subcommands([](const CLI::App*) { return true; }))
      words.push_back(sub->get_name());
  }
  return words;
}

int explain_usage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  if (!app.get_subcommands().empty()) command = app.get_subcommands().front();
  const std::string help = command == &app ? "longstride --help" : "longstride " + command->get_name() + " --help";
  const std::vector<std::string> extras = app.remaining(true);
  if (!extras.empty()) {
    std::string given = extras.front();
    if (const size_t equals = given.find('='); equals != std::string::npos) given.resize(equals);
    const std::string near = core::nearest(given, known_words(*command, given));
    const bool option = given.rfind("-", 0) == 0;
    const char* kind = option ? "option" : command == &app ? "command" : "argument";
    std::cerr << "longstride: " << rank_label() << "unknown " << kind << " '" << given << "'";
    if (!near.empty()) std::cerr << "; did you mean '" << near << "'?";
    std::cerr << "\nSee '" << help << "'.\n";
    return kBadUsage;
  }
  std::cerr << "longstride: " << rank_label() << error.what() << "\nSee '" << help << "'.\n";
  return kBadUsage;
}

// What is not ours to word: the first line of it, in a sentence that says whose it is.
std::string foreign_words(const std::exception& error) {
  std::string message = error.what();
  // LibTorch's errors carry a C++ stack trace after the first line, which helps nobody here.
  if (const size_t trace = message.find("\nException raised from"); trace != std::string::npos) message.resize(trace);
  if (message.find("can't allocate memory") != std::string::npos) return kOutOfMemory;
  if (const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error))
    return fmt::format("'{}': {}", file->path1().string(), file->code().message());
  if (dynamic_cast<const std::logic_error*>(&error) != nullptr ||
      dynamic_cast<const nlohmann::json::exception*>(&error) != nullptr) {
    return fmt::format("a fault of the program itself: {}; please report it with the command that led to it", message);
  }
  return message;
}

int fail(const std::string& message, int exit_code) {
  // In one piece, since ranks share a terminal.
  std::cerr << fmt::format("longstride: {}{}\n", rank_label(), message);
  return exit_code;
}

int run(int argc, char** argv) {
  int exit_code = kOk;
  CLI::App app{"longstride: exact attention over very long sequences, and a LongNet language model built on it",
               "longstride"};
  app.set_version_flag("--version", kVersion);
  app.require_subcommand(1);
  app.footer(
      "'longstride COMMAND --help' tells all of a command, with examples.\n"
      "Exit codes: 0 done, 1 failed while running, 2 bad usage or input, 130 interrupted.\n"
      "In JSON, a byte of a name that is not UTF-8 is the character U+EF00 + byte.");
  add_train(app, exit_code);
  add_generate(app, exit_code);
  add_eval(app, exit_code);
  add_bench(app, exit_code);
  add_compare(app, exit_code);
  add_show(app, exit_code);
  add_doctor(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wanted) {  // --help, --version
    return app.exit(wanted);
  } catch (const CLI::ParseError& error) {
    return explain_usage(app, error);
  } catch (const Error& error) {
    return fail(error.what(), kBadUsage);
  } catch (const std::bad_alloc&) {
    return fail(kOutOfMemory, kFailure);
  } catch (const std::exception& error) {
    return fail(foreign_words(error), kFailure);
  } catch (...) {
    return fail("stopped by an error that says nothing about itself; please report it", kFailure);
  }
  return exit_code;
}

// Whatever the command did: if not all that it printed could be written, it failed.
int flushed(int exit_code) {
  try {
    flush_output();
  } catch (const std::exception& error) {
    if (exit_code != kFailure) fail(error.what(), kFailure);  // else the command has said so while it printed
    return exit_code == kOk ? kFailure : exit_code;
  }
  return exit_code;
}

}  // namespace
}  // namespace longstride::cli

int main(int argc, char** argv) {
  longstride::cli::hold_standard_files();
  // A pipe that nobody reads and a file at its size limit are writes that fail, not the end of a run.
  for (const int signal : {SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_IGN);
  return longstride::cli::flushed(longstride::cli::run(argc, argv));
}
