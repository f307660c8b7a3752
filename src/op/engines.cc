// The engines of this build, which of them takes a problem, and the workspace that they are lent.
#include "op/engines.h"

#include <fmt/format.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <exception>

#include "core/refuse.h"
#include "engine/cpu/cpu.h"
#include "engine/reference/reference.h"
#include "op/brgemm.h"
#include "op/cuda/cuda.h"
#include "op/later.h"
#include "op/memory.h"
#include "plan/step_base.h"

namespace longstride {
namespace op {
namespace {

thread_local const char* engine_of_thread = "";
// The name of an engine, as its list has it, or "": a backward runs on threads of its own, so it is not of one thread.
std::atomic<const char*> engine_in_use = "";

std::atomic<int64_t> plan_limit_bytes = plan::PlanCache::kDefaultCapacityBytes;

Geometry reference_geometry(const engine::Problem&, bool, Direction, Pass) { return {}; }
Geometry cpu_geometry(const engine::Problem& p, bool causal, Direction direction, Pass) {
  return engine::cpu::geometry(p.dtype, p.dim, causal, direction);
}
bool no_forward_plan(const engine::Problem&) { return false; }
bool no_list(const engine::Problem&, const engine::BlocksOnDevice&) { return false; }

// Engines of the CPU read a plan where the cache keeps it.
template <auto run>
void run_forward(const engine::ForwardProblem& p, const Plans& plans, const Loan& loan) {
  run(p, plans.forward->view(), loan.workspace, loan.stream);
}
template <auto run>
void run_backward(const engine::BackwardProblem& p, const Plans& plans, const Loan& loan) {
  run(p, plans.transposed->view(), loan.workspace, loan.stream);
}

// Inside a parallel region torch gives one thread, and so do we. The stable ABI cannot say whether this is one; where
// the name is gone, all threads' scratch is lent there and one thread works.
int threads_of_torch() {
  static auto* const in_parallel_region = loaded<bool()>("libtorch_cpu.so", "_ZN2at18in_parallel_regionEv");
  return in_parallel_region && in_parallel_region() ? 1 : static_cast<int>(torch::stable::get_num_threads());
}

int32_t one_worker(const engine::Problem&, Direction) { return 1; }
int32_t cpu_workers(const engine::Problem& p, Direction d) { return engine::cpu::workers(p, d, threads_of_torch()); }

constexpr Engine kReference = {"reference",
                               reference_geometry,
                               engine::reference::capability,
                               no_forward_plan,
                               run_forward<engine::reference::forward>,
                               run_backward<engine::reference::backward>,
                               one_worker,
                               no_list,
                               false};
constexpr Engine kCpu = {"cpu",
                         cpu_geometry,
                         engine::cpu::capability,
                         no_forward_plan,
                         run_forward<engine::cpu::forward>,
                         run_backward<engine::cpu::backward>,
                         cpu_workers,
                         no_list,
                         false};

// Calls body for 0..count on torch's threads. Indices are handed out one by one, in order: the tiles of a plan stand
// longest first, and those that share keys are near each other. What a body throws is kept until all threads are back:
// between them stands a C interface, which would make a text of it.
void parallel_for(int threads, int64_t count, const std::function<void(int64_t, int)>& body) {
  std::atomic<int64_t> next{0};
  std::atomic_flag failed;
  std::exception_ptr thrown;
  torch::stable::parallel_for(0, std::min<int64_t>(threads, count), 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t thread = begin; thread < end; ++thread)
        for (int64_t i = next++; i < count; i = next++) body(i, static_cast<int>(thread));
    } catch (...) {
      if (!failed.test_and_set()) thrown = std::current_exception();
      next = count;
    }
  });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace

const Engine& choose_engine(Place device, const engine::Problem& problem) {
  const std::string_view wanted = engine_in_use.load();
  if (device.is_cuda()) return cuda::choose_engine(device, problem, wanted);
  if (!device.is_cpu())
    core::refuse("q", "must be on the CPU or a CUDA device", text(device), "move q, k and v with .cpu()");
  const bool asked = wanted == kCpu.name || wanted == kReference.name;
  const bool plain = asked ? wanted == kReference.name : problem.dtype == core::DType::kFloat64;
  const Engine& engine = plain ? kReference : kCpu;
  const engine::Capability capability = engine.capability(problem);
  if (!capability.yes)
    core::refuse("the call", fmt::format("must be one that the {} engine takes", engine.name), capability.reason,
                 asked ? kNoEngineAskedFor : "");
  return engine;
}

Geometry geometry_for(const Engine& engine, const engine::Problem& problem, bool causal, Direction direction,
                      Pass pass) {
  Geometry geometry = engine.geometry(problem, causal, direction, pass);
  geometry.workers = engine.workers(problem, direction);
  return geometry;
}

PlanPointer plan_for(const Engine& engine, const engine::Problem& problem, const Pattern& pattern, const Extent& extent,
                     Direction direction, Pass pass, bool pin) {
  const Geometry geometry = geometry_for(engine, problem, pattern.causal(), direction, pass);
  return plan::process_cache().get(pattern, extent, geometry, direction, pin);
}

PlanPointer forward_plan(const Engine& engine, engine::Problem& problem, const Pattern& pattern, const Extent& extent,
                         bool pin) {
  const auto plan = [&](const Extent& of) {
    return plan_for(engine, problem, pattern, of, Direction::kForward, Pass::kForward, pin);
  };
  if (problem.len_q != 1 || !engine.takes_plan_tokens || problem.drops() || problem.alibi) return plan(extent);
  const Extent base = plan::step_base(pattern, extent);
  problem.plan_tokens = extent.query_start - base.query_start;
  return plan(base);
}

Loan lend(Place device) {
  if (device.is_cuda()) return cuda::lend(device);
  Loan loan;
  engine::Workspace& space = loan.workspace;
  space.threads = threads_of_torch();
  space.parallel_for = [threads = space.threads](int64_t count, const std::function<void(int64_t, int)>& body) {
    parallel_for(threads, count, body);
  };
  space.gemm = brgemm();
  lend_memory(space);
  return loan;
}

void note_engine(const Engine& engine) { engine_of_thread = engine.name; }

}  // namespace op

std::string last_engine() { return op::engine_of_thread; }

std::string use_engine(const std::string& name) {
  std::vector<const char*> known = {op::kCpu.name, op::kReference.name};
  for (const char* of_cuda : op::cuda::engine_names()) known.push_back(of_cuda);
  const auto found = std::find(known.begin(), known.end(), name);
  if (found == known.end() && !name.empty())
    core::refuse_unknown("engine", name, std::vector<std::string>(known.begin(), known.end()));
  return op::engine_in_use.exchange(found == known.end() ? "" : *found);
}

std::vector<EngineReport> capabilities() {
  std::vector<EngineReport> reports;
  for (const op::Engine* engine : {&op::kCpu, &op::kReference}) {
    std::string taken, refused;
    for (const core::DType dtype :
         {core::DType::kFloat32, core::DType::kBFloat16, core::DType::kFloat16, core::DType::kFloat64}) {
      engine::Problem problem{.dtype = dtype, .batch = 1, .heads = 1, .kv_heads = 1, .len_q = 1, .len_k = 1, .dim = 64};
      const engine::Capability capability = engine->capability(problem);
      std::string& list = capability.yes ? taken : refused;
      if (!list.empty()) list += ", ";
      list += capability.yes ? core::name(dtype) : fmt::format("{}: {}", core::name(dtype), capability.reason);
    }
    EngineReport report{engine->name, !taken.empty(), taken};
    if (!refused.empty()) report.reason += (taken.empty() ? "" : "; not ") + refused;
    if (engine == &op::kCpu) {
      const engine::MicroGemm* gemm = op::brgemm();
      report.reason += fmt::format("; {} threads, products by {}", torch::stable::get_num_threads(),
                                   gemm ? gemm->name() : "the engine's own micro-kernel");
    } else {
      report.reason += "; plain loops: picked for float64 only";
    }
    reports.push_back(report);
  }
  for (EngineReport& report : op::cuda::reports()) reports.push_back(std::move(report));
  return reports;
}

PlanCacheStats plan_cache_stats() {
  const plan::CacheStatistics seen = plan::process_cache().statistics();
  return {seen.plans, seen.bytes, op::plan_limit_bytes, seen.hits, seen.misses, seen.evictions};
}

void set_plan_cache_limit(int64_t bytes) {
  if (bytes < 0) core::refuse("plan cache limit", "must be a number of bytes >= 0", bytes);
  plan::process_cache().set_capacity_bytes(bytes);
  op::plan_limit_bytes = bytes;
}

void clear_plan_cache() { plan::process_cache().clear(); }

}  // namespace longstride
