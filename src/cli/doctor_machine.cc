// Machine and build (doctor_machine.h), from Linux's /proc and LibTorch.
#include "doctor_machine.h"

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <fmt/format.h>
#include <sched.h>
#include <torch/version.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "longstride_commit.h"

namespace longstride::cli {
namespace {

// The value of the first line "key : value" of a file; empty if there is none.
std::string field(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1) != key) continue;
    const size_t from = line.find_first_not_of(" \t", colon + 1);
    return from == std::string::npos ? "" : line.substr(from);
  }
  return "";
}

// "AMD EPYC Processor (family 26, model 2)": one name in the shops is several processors, whose rates differ twofold.
std::string processor() {
  std::string name = field("/proc/cpuinfo", "model name");
  if (name.empty()) name = "unnamed processor";
  const std::string family = field("/proc/cpuinfo", "cpu family");
  const std::string model = field("/proc/cpuinfo", "model");
  return family.empty() ? name : fmt::format("{} (family {}, model {})", name, family, model);
}

std::vector<std::string> instructions() {
  std::istringstream words(field("/proc/cpuinfo", "flags") + " " + field("/proc/cpuinfo", "Features"));
  std::set<std::string> flags;
  for (std::string word; words >> word;) flags.insert(word);
  std::vector<std::string> found;
  for (const char* name : {"avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_fp16",
                           "asimd", "sve", "bf16"}) {
    if (flags.count(name) > 0) found.emplace_back(name);
  }
  return found;
}

}  // namespace

int64_t proc_bytes(const char* path, const std::string& key) {
  std::istringstream words(field(path, key));
  int64_t kibibytes = 0;
  words >> kibibytes;
  return kibibytes * 1024;
}

Machine this_machine() {
  Machine machine;
  machine.processor = processor();
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) machine.processors = CPU_COUNT(&set);
  machine.threads = at::get_num_threads();
  machine.torch_version = fmt::format("{}.{}.{}", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR, TORCH_VERSION_PATCH);
  machine.torch_instructions = at::get_cpu_capability();
  machine.instructions = instructions();
  machine.memory_bytes = proc_bytes("/proc/meminfo", "MemTotal");
  machine.free_bytes = proc_bytes("/proc/meminfo", "MemAvailable");
  machine.commit = LONGSTRIDE_COMMIT;
#ifdef __clang__
  machine.compiler = __VERSION__;  // begins with its name
#else
  machine.compiler = "gcc " __VERSION__;
#endif
  return machine;
}

std::string machine_words(const Machine& machine) {
  return fmt::format("{}, {} threads, LibTorch {}, longstride {}", machine.processor, machine.threads,
                     machine.torch_version, machine.commit);
}

nlohmann::json machine_json(const Machine& machine) {
  return {{"processor", machine.processor},
          {"processors", machine.processors},
          {"threads", machine.threads},
          {"torch", machine.torch_version},
          {"torch_instructions", machine.torch_instructions},
          {"instructions", machine.instructions},
          {"memory_bytes", machine.memory_bytes},
          {"free_bytes", machine.free_bytes},
          {"commit", machine.commit},
          {"compiler", machine.compiler}};
}

}  // namespace longstride::cli
