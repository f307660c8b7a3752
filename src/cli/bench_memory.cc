// Starting the program again to measure memory (bench_case.h).
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "bench_case.h"
#include "core/files.h"

extern char** environ;

namespace longstride::cli {
namespace {

std::vector<std::string> arguments(const BenchCase& bench_case, const std::string& who, int64_t threads) {
  const PatternOptions& pattern = bench_case.pattern;
  std::vector<std::string> words = {"longstride", "bench", "--memory-of", who};
  const auto add = [&](const char* name, const auto& value) {
    words.emplace_back(name);
    words.push_back(fmt::format("{}", value));
  };
  if (!pattern.json.empty()) {
    add("--pattern", pattern.json);
  } else {
    add("--segments", fmt::format("{}", fmt::join(pattern.segments, ",")));
    add("--rates", fmt::format("{}", fmt::join(pattern.rates, ",")));
    add("--offset", pattern.head_offset);
    if (!pattern.offsets.empty()) add("--offsets", fmt::format("{}", fmt::join(pattern.offsets, ",")));
    add("--mixing", pattern.mixing);
    add("--padding", pattern.padding);
    if (pattern.causal) words.emplace_back("--causal");
    if (pattern.average) words.emplace_back("--average");
  }
  add("--len", bench_case.len);
  add("--heads", bench_case.heads);
  add("--kv-heads", bench_case.kv_heads);
  add("--dim", bench_case.dim);
  add("--dtype", bench_case.dtype);
  if (bench_case.backward) words.emplace_back("--backward");
  add("--threads", threads);
  return words;
}

}  // namespace

int64_t extra_bytes_in_own_process(const BenchCase& bench_case, const std::string& who, int64_t threads) {
  std::vector<std::string> words = arguments(bench_case, who, threads);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  int ends[2];
  if (pipe(ends) != 0) throw std::runtime_error("bench: no pipe for the measurement of memory");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  pid_t child = 0;
  const int failed = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  const std::string text = failed == 0 ? core::read_rest(ends[0]).first : "";
  close(ends[0]);
  if (failed != 0) throw std::runtime_error("bench: cannot start a process for the measurement of memory");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw std::runtime_error(fmt::format("bench: the measurement of the memory of {} failed", who));
  return std::strtoll(text.c_str(), nullptr, 10);
}

}  // namespace longstride::cli
