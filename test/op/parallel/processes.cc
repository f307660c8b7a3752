// One process a rank, of one program.
#include "test/op/parallel/processes.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "longstride/error.h"

extern char** environ;  // NOLINT: POSIX has no header for it

namespace longstride::test {
namespace {

using at::Tensor;

int found = 0;

int start(const std::string& program, int ranks) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / fmt::format("longstride_ranks_{}", getpid());
  std::filesystem::create_directory(folder);
  const std::string file = folder / "store", count = std::to_string(ranks);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<std::string> words = {program, count, std::to_string(rank), file};
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_t child = 0;
    if (posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) return 1;
    children.push_back(child);
  }
  int failed = 0;
  for (size_t left = children.size(); left > 0; --left) {
    int status = 0;
    const pid_t ended = wait(&status);
    std::erase(children, ended);
    if (status == 0) continue;
    failed = 1;
    for (const pid_t child : children) kill(child, SIGKILL);  // they would wait for it
  }
  std::filesystem::remove_all(folder);
  return failed;
}

}  // namespace

void expect(bool holds, const std::string& what) {
  if (holds) return;
  ++found;
  fmt::print(stderr, "failed: {}\n", what);
}

void expect_near(const Tensor& got, const Tensor& wanted, double tolerance, const std::string& what) {
  const bool equal = got.sizes() == wanted.sizes() && at::allclose(got, wanted, tolerance, tolerance);
  expect(equal, what);
}

void expect_refused(const std::string& says, const std::function<void()>& body) {
  try {
    body();
    expect(false, "no Error: " + says);
  } catch (const Error& error) {
    expect(std::string(error.what()).find(says) != std::string::npos, fmt::format("'{}' in '{}'", says, error.what()));
  }
}

int failures() { return found; }

int run_ranks(int count, char** arguments, const std::function<int(int, int, const std::string&)>& of_rank) {
  at::set_num_threads(1);
  const int ranks = std::atoi(arguments[1]);
  if (count == 2) return start("/proc/self/exe", ranks);
  return of_rank(std::atoi(arguments[2]), ranks, arguments[3]);
}

}  // namespace longstride::test
