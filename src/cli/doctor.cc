// `longstride doctor`: what this machine has, which engine is picked and why, and whether attention is right here. With
// --types: the types of attention that the factory builds, and their options.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "commands.h"
#include "core/json.h"
#include "doctor_check.h"
#include "doctor_machine.h"
#include "longstride/attention.h"
#include "longstride/factory.h"
#include "options.h"
#include "peer/peers.h"
#include "terminal.h"
#include "train/device.h"

namespace longstride::cli {
namespace {

struct Found {
  Machine machine;
  std::vector<EngineReport> engines;
  std::vector<std::pair<std::string, peer::GemmRate>> rates;
  std::vector<CheckResult> checks;
  std::vector<std::string> faults;
};

Found examine(const std::string& asked) {
  Found found{this_machine(), capabilities(), {}, check_attention(asked), {}};  // an unknown engine ends it here
  found.rates = {{"float32", peer::brgemm_rate(at::kFloat)},
                 {"bfloat16", peer::brgemm_rate(at::kBFloat16)},
                 {"float16", peer::brgemm_rate(at::kHalf)}};
  bool any = false;
  for (const EngineReport& engine : found.engines) any = any || engine.yes;
  if (!any) found.faults.push_back("no engine can run on this machine");
  for (const CheckResult& check : found.checks) {
    if (!check.fault.empty()) found.faults.push_back("attention in " + check.dtype + ": " + check.fault);
  }
  const auto is_refused = [](const CheckResult& check) { return !check.refusal.empty(); };
  if (std::all_of(found.checks.begin(), found.checks.end(), is_refused))
    found.faults.push_back(fmt::format("{} takes no dtype here: {}", asked, found.checks.front().refusal));
  return found;
}

nlohmann::json to_json(const Found& found) {
  nlohmann::json engines = nlohmann::json::array(), checks = nlohmann::json::array();
  nlohmann::json rates = nlohmann::json::object();
  for (const EngineReport& engine : found.engines)
    engines.push_back({{"engine", engine.engine}, {"yes", engine.yes}, {"reason", engine.reason}});
  for (const auto& [dtype, rate] : found.rates) {
    rates[dtype] = {{"available", rate.gflops > 0}, {"gflops", rate.gflops}};
    if (!rate.reason.empty()) rates[dtype]["reason"] = rate.reason;
  }
  for (const CheckResult& check : found.checks) {
    checks.push_back({{"dtype", check.dtype},
                      {"engine", check.engine},
                      {"out_error", check.out_error},
                      {"grad_error", check.grad_error},
                      {"allowed", check.allowed},
                      {"refusal", check.refusal},
                      {"fault", check.fault}});
  }
  return {{"machine", machine_json(found.machine)},
          {"engines", engines},
          {"brgemm", rates},
          {"checks", checks},
          {"faults", found.faults},
          {"healthy", found.faults.empty()}};
}

void print_text(const Found& found) {
  const Machine& machine = found.machine;
  std::cout << "machine\n"
            << fmt::format("  {:<13} {}\n", "processor", machine.processor)
            << fmt::format("  {:<13} {}\n", "instructions", fmt::join(machine.instructions, " "))
            << fmt::format("  {:<13} {} of {} processors\n", "threads", machine.threads, machine.processors)
            << fmt::format("  {:<13} {}, {} free\n", "memory", bytes_label(static_cast<double>(machine.memory_bytes)),
                           bytes_label(static_cast<double>(machine.free_bytes)))
            << fmt::format("  {:<13} {}, uses {}\n", "LibTorch", machine.torch_version, machine.torch_instructions)
            << fmt::format("  {:<13} {}, {}\n", "longstride", machine.commit, machine.compiler);
  std::cout << "\nengines\n";
  for (const EngineReport& engine : found.engines)
    std::cout << fmt::format("  {:<10} {:<4} {}\n", engine.engine, engine.yes ? "yes" : "no", engine.reason);
  std::cout << "\nmicro-GEMM: LibTorch's brgemm on 64 x 64 x 64 tiles, all threads\n";
  for (const auto& [dtype, rate] : found.rates) {
    std::cout << fmt::format("  {:<10} {}\n", dtype,
                             rate.gflops > 0 ? fmt::format("{:.0f} GFLOP/s", rate.gflops)
                                             : "not available, another product is used: " + rate.reason);
  }
  std::cout << "\nself-check: attention and its gradients against the dense formula in float64\n";
  std::vector<std::vector<std::string>> rows = {{"dtype", "engine", "largest error", "of gradients", "allowed", ""}};
  for (const CheckResult& check : found.checks) {
    if (!check.refusal.empty()) {
      rows.push_back({check.dtype, "none", "", "", "", "refused: " + check.refusal});
      continue;
    }
    rows.push_back({check.dtype, check.engine.empty() ? "none" : check.engine, fmt::format("{:.1e}", check.out_error),
                    fmt::format("{:.1e}", check.grad_error), fmt::format("{:.0e}", check.allowed),
                    check.fault.empty() ? "ok" : "WRONG"});
  }
  std::cout << text_table(rows) << "\n";
  for (const std::string& fault : found.faults) std::cout << "broken: " << fault << "\n";
  if (found.faults.empty()) std::cout << "All is well.\n";
}

nlohmann::json options_json(const std::vector<OptionInfo>& options) {
  nlohmann::json list = nlohmann::json::array();
  for (const OptionInfo& option : options) {
    list.push_back({{"name", option.name},
                    {"default", core::parse_json("option", option.default_value)},
                    {"meaning", option.meaning}});
  }
  return list;
}

void print_types(bool json) {
  const Registry registry = builtin_registry();
  if (json) {
    nlohmann::json types = nlohmann::json::object();
    for (const std::string& name : registry.names()) {
      const AttentionBuilder& type = registry.at(name);
      types[name] = {{"summary", type.summary},
                     {"options", options_json(type.options)},
                     {"multihead_options", options_json(type.multihead_options)}};
    }
    std::cout << core::json_text({{"types", types}}) << "\n";
    return;
  }
  const Choice choice = choose_attention({});
  std::cout << fmt::format("auto: here and without options {}, for {}\n", choice.type, choice.reason);
  for (const std::string& name : registry.names()) {
    const AttentionBuilder& type = registry.at(name);
    std::cout << fmt::format("\n{}: {}\n", name, type.summary);
    std::vector<std::string> plain;
    for (const OptionInfo& option : type.options) plain.push_back(option.name);
    std::vector<std::vector<std::string>> rows = {{"option", "default", ""}};
    // Those of the multihead module have those of the plain one among them; a star marks what is its alone.
    for (const OptionInfo& option : type.multihead_options) {
      const bool shared = std::find(plain.begin(), plain.end(), option.name) != plain.end();
      rows.push_back({option.name + (shared ? "" : " *"), option.default_value, option.meaning});
    }
    std::cout << text_table(rows);
  }
  std::cout << "\n* of create_multihead_dilated_attention() alone\n";
}

}  // namespace

void add_doctor(CLI::App& app, int& exit_code) {
  struct Options {
    bool json = false;
    bool types = false;
    int64_t threads = 0;
    std::string engine;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "doctor", "Tell what this machine has and which engine is picked, and check that attention is right here");
  add(*command, "--threads", options->threads, "Threads (default: LibTorch's choice)", whole_number(1, kMostThreads));
  command->add_option("--engine", options->engine,
                      "Check this engine alone, by a name of the list that doctor prints, on its device");
  command->add_flag("--json", options->json, "Print JSON instead of text");
  command->add_flag("--types", options->types,
                    "List every type of attention that the factory builds, with its options");
  command->footer("Exit code: 0 all is well, 1 something is broken.");
  command->callback([options, &exit_code] {
    train::use_threads(options->threads);
    if (options->types) {
      print_types(options->json);
      return;
    }
    const Found found = examine(options->engine);
    if (options->json) {
      std::cout << core::json_text(to_json(found)) << "\n";
    } else {
      print_text(found);
    }
    if (!found.faults.empty()) exit_code = kFailure;
  });
}

}  // namespace longstride::cli
