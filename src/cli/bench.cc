// `longstride bench`: attention beside dense SDPA and LongNet's algorithm group by group, as its official pipeline has
// it and written for speed, in one process and one table.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bench_case.h"
#include "bench_report.h"
#include "commands.h"
#include "core/files.h"
#include "core/json.h"
#include "longstride/error.h"
#include "longstride/pattern/json.h"
#include "options.h"
#include "peer/peers.h"
#include "picture/picture.h"
#include "standard_streams.h"
#include "train/device.h"

namespace longstride::cli {
namespace {

struct BenchOptions {
  BenchCase bench_case;
  std::optional<int64_t> kv_heads;
  std::vector<int64_t> lens;
  std::string suite;
  int64_t repeats = 5;
  double seconds = 0;
  int64_t dense_limit = 16384;
  int64_t threads = 0;
  bool no_memory = false;
  bool no_dense = false;
  bool no_official = false;
  bool no_per_group = false;
  bool check = false;
  bool json = false;
  std::string save;
  std::string curve;
  std::string memory_of;
};

std::vector<std::pair<BenchCase, Bar>> wanted_cases(const BenchOptions& options) {
  if (!options.suite.empty()) return suite_cases(options.suite);
  std::vector<std::pair<BenchCase, Bar>> cases;
  std::vector<int64_t> lens = options.lens;
  if (lens.empty()) lens = {options.bench_case.len};
  for (const int64_t len : lens) {
    BenchCase entry = options.bench_case;
    entry.len = len;
    entry.kv_heads = options.kv_heads.value_or(entry.heads);
    entry.peers.clear();
    if (!options.no_dense && len <= options.dense_limit) entry.peers.emplace_back("dense");
    if (!options.no_official) entry.peers.emplace_back("official");
    if (!options.no_per_group) entry.peers.emplace_back("per_group");
    cases.push_back({entry, {}});
  }
  return cases;
}

void check_options(const BenchOptions& options) {
  if (!options.curve.empty()) {
    picture::check_picture_path("--curve", options.curve);
    if (options.lens.empty()) throw Error("--curve: needs the lengths of the curve: --lens 1k,2k,4k,8k");
  }
  if (options.check && options.suite.empty()) throw Error("--check: needs --suite, which has bars to check");
}

void bench(const BenchOptions& options, int& exit_code) {
  check_options(options);
  train::use_threads(options.threads);
  const std::vector<std::pair<BenchCase, Bar>> cases = wanted_cases(options);
  for (const auto& [entry, bar] : cases) check_case(entry);
  if (!options.memory_of.empty()) {
    std::cout << measure_extra_bytes(cases.front().first, options.memory_of) << "\n";
    return;
  }

  BenchReport report;
  report.machine = this_machine();
  const auto say = [&](const std::string& text) {
    if (options.json) return;
    std::cout << text;
    flush_output();
  };
  say(machine_words(report.machine) + "\n");
  for (const auto& [entry, bar] : cases) {
    if (report.brgemm_gflops.count(entry.dtype) > 0) continue;
    const auto [gflops, reason] = peer::brgemm_rate(dtype_from_name(entry.dtype));
    report.brgemm_gflops[entry.dtype] = gflops;
    if (gflops <= 0) report.brgemm_refusals[entry.dtype] = reason;
    say(gflops > 0 ? fmt::format("brgemm on 64 x 64 x 64 tiles, {}: {:.0f} GFLOP/s\n", entry.dtype, gflops)
                   : fmt::format("brgemm, {}: not available: {}\n", entry.dtype, reason));
  }
  if (!options.suite.empty())
    say(fmt::format("suite {}: LongNet's five groups (rates 1, 2, 4, 8, 16); plain attention at the end\n",
                    options.suite));
  else
    say("pattern: " + pattern_line(cases.front().first.pattern.pattern()) + "\n");
  say("times: median of interleaved rounds after one warm-up; extra memory: beyond inputs and outputs\n");

  const BenchBudget budget{options.repeats, options.seconds / static_cast<double>(cases.size())};
  for (const auto& [entry, bar] : cases) {
    BenchLine line{run_case(entry, budget), bar, {}};
    if (!options.no_memory) {
      for (const Runs& runs : line.result.runs)
        line.extra_bytes[runs.name] = extra_bytes_in_own_process(entry, runs.name, report.machine.threads);
    }
    say("\n" + times_text(line, report));
    if (!options.no_dense && entry.len > options.dense_limit && options.suite.empty())
      say(fmt::format("  dense did not run: more than --dense-limit {} tokens\n", options.dense_limit));
    report.lines.push_back(std::move(line));
  }
  if (const std::string bars = bars_text(report); !bars.empty()) say("\n" + bars);
  if (!options.curve.empty()) {
    write_curve(options.curve, report);
    say("wrote " + options.curve + "\n");
  }
  if (!options.save.empty()) {
    core::write_file(options.save, core::json_text(report_json(report), 1) + "\n");
    say("wrote " + options.save + "\n");
  }
  if (options.json) std::cout << core::json_text(report_json(report)) << "\n";
  if (options.check && !all_accepted(report)) exit_code = kFailure;
}

}  // namespace

void add_bench(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<BenchOptions>();
  BenchCase& entry = options->bench_case;
  entry.pattern.segments = {1024, 2048, 4096, 8192, 16384};
  entry.pattern.rates = {1, 2, 4, 8, 16};
  entry.len = 16384;
  CLI::App* command =
      app.add_subcommand("bench", "Measure attention beside dense attention and LongNet's published algorithm");
  add_pattern_options(*command, entry.pattern);
  add_json_option(*command, entry.pattern);
  const CLI::Validator heads = whole_number(1, kMostHeads);
  command->option_defaults()->group("Shape");
  CLI::Option* len = add(*command, "--len", entry.len, "Tokens (32k = 32768)", token_count(1))->capture_default_str();
  add(*command, "--lens", options->lens, "Several lengths, one after the other, in place of --len", token_count(1))
      ->delimiter(',')
      ->excludes(len);
  add(*command, "--heads", entry.heads, "Query heads", heads)->capture_default_str();
  add(*command, "--kv-heads", options->kv_heads, "KV heads; they divide the heads (default: as --heads)", heads);
  add(*command, "--dim", entry.dim, "Numbers in a head", whole_number(1, 65536))->capture_default_str();
  command->add_option("--dtype", entry.dtype, "float32, bfloat16 or float16")->capture_default_str();
  command->add_flag("--backward", entry.backward, "Forward and backward together; default: forward alone");
  command->option_defaults()->group("Measurement");
  CLI::Option* suite = command->add_option(
      "--suite", options->suite, "cpu: the table that releases are held against, with its own patterns and shapes");
  for (CLI::Option* option : command->get_options()) {
    if (option->get_group() == "Pattern" || option->get_group() == "Shape") suite->excludes(option);
  }
  add(*command, "--repeats", options->repeats, "Rounds, in each of which everybody runs once",
      whole_number(1, 1'000'000'000))
      ->capture_default_str();
  add(*command, "--seconds", options->seconds,
      "Start no further round after this much time, shared among the cases; one round always runs",
      real_number(0, 1e9));
  add(*command, "--dense-limit", options->dense_limit, "Leave dense attention out beyond this many tokens",
      token_count(0))
      ->capture_default_str();
  command->add_flag("--no-dense", options->no_dense, "Leave dense attention out");
  command->add_flag("--no-official", options->no_official, "Leave LongNet's official pipeline out");
  command->add_flag("--no-per-group", options->no_per_group, "Leave the same algorithm written for speed out");
  command->add_flag("--no-memory", options->no_memory, "Do not measure memory, which takes a process for each who");
  add(*command, "--threads", options->threads, "Threads (default: LibTorch's choice)", whole_number(1, kMostThreads));
  command->add_flag("--check", options->check, "With --suite: exit code 1 if a bar is missed");
  command->add_option("--memory-of", options->memory_of, "Print the extra bytes of one call")
      ->check(CLI::IsMember({"dense", "official", "per_group", "longstride"}))
      ->group("");
  command->option_defaults()->group("Output");
  command->add_option("--curve", options->curve, "With --lens: draw time over length: FILE.svg or FILE.png")
      ->check(output_file());
  command->add_option("--save", options->save, "Write all that was measured as JSON to a file")->check(output_file());
  command->add_flag("--json", options->json, "Print JSON instead of tables");
  command->footer(
      "Examples:\n"
      "  longstride bench --len 16k --causal --backward\n"
      "  longstride bench --pattern docs/patterns/strided.json --len 16k --backward\n"
      "  longstride bench --window 1024 --sinks 4 --causal --len 16k\n"
      "  longstride bench --lens 1k,2k,4k,8k,16k,32k --curve curve.svg --save bench.json\n"
      "  longstride bench --suite cpu --save suite.json");
  command->callback([options, &exit_code] {
    // Read once: all cases, and the processes that measure memory, have the same pattern.
    PatternOptions& pattern = options->bench_case.pattern;
    if (!pattern.json.empty()) pattern.json = pattern_text(pattern.json);
    if (!pattern.window.empty()) pattern.json = to_json(pattern.pattern());
    bench(*options, exit_code);
  });
}

}  // namespace longstride::cli
