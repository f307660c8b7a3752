// Runs calls on the CUDA engines. LibTorch's stream and allocator are functions of its CUDA library, which whoever made
// a tensor on a CUDA device has loaded: they are found there by name, so that this builds with any LibTorch, also one
// without CUDA, and one library serves both.
#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <stdexcept>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/lists/plan.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "longstride/attention/gpus.h"
#include "op/cuda/cuda.h"
#include "op/later.h"
#include "op/memory.h"

namespace longstride::op::cuda {
namespace {

using engine::Problem;
using engine::cuda::DevicePlan;
namespace lists = engine::cuda::lists;
namespace sm80 = engine::cuda::sm80;
namespace sm90 = engine::cuda::sm90;

// The plan on the current device: copied there once, kept as long as the plan.
const DevicePlan& on_device(const plan::CachedPlan& plan, const Problem& p, const Loan& loan) {
  const int64_t group = plan.direction == Direction::kForward ? p.heads / p.kv_heads : 1;
  const auto kept = plan.kept(loan.device, [&]() -> plan::CachedPlan::Kept {
    return std::make_shared<DevicePlan>(plan.view(), p.batch, p.kv_heads, group);
  });
  return *static_cast<const DevicePlan*>(kept.get());
}

using GeometryOf = Geometry (*)(const Problem&, bool causal, Direction, Pass);
Geometry sm80_geometry(const Problem& p, bool, Direction d, Pass) { return sm80::geometry(p.dtype, p.dim, d); }

Geometry sm90_geometry(const Problem& p, bool, Direction d, Pass pass) {
  if (pass == Pass::kBackward) return sm90::backward_geometry(p.dtype, d);
  return d == Direction::kForward ? sm90::forward_geometry(p) : sm90::geometry(d);
}
void sm90_backward(const engine::BackwardProblem& p, const engine::cuda::BackwardPlans& plans,
                   const engine::Workspace& workspace, engine::Stream stream) {
  (sm90::has_backward(p) ? sm90::backward : sm80::backward)(p, plans, workspace, stream);
}

template <GeometryOf geometry>
bool plans_list(const Problem& p, const engine::BlocksOnDevice& list) {
  const auto takes = [&](Direction d, Pass pass) {
    return lists::takes(p, list, geometry(p, list.causal, d, pass), d);
  };
  return takes(Direction::kForward, Pass::kForward) && takes(Direction::kForward, Pass::kBackward) &&
         takes(Direction::kTransposed, Pass::kBackward);
}

// Of this call's list, in memory of its loan.
template <GeometryOf geometry>
std::unique_ptr<const DevicePlan> of_list(const Problem& p, const engine::BlocksOnDevice& list, Direction direction,
                                          Pass pass, const Loan& loan) {
  const Geometry g = geometry(p, list.causal, direction, pass);
  return std::unique_ptr<const DevicePlan>(
      new DevicePlan(lists::plan(p, list, g, direction, loan.workspace, loan.stream)));
}

template <auto run, GeometryOf geometry>
void run_forward(const engine::ForwardProblem& p, const Plans& plans, const Loan& loan) {
  if (plans.list != nullptr)
    return run(p, *of_list<geometry>(p, *plans.list, Direction::kForward, Pass::kForward, loan), loan.workspace,
               loan.stream);
  run(p, on_device(*plans.forward, p, loan), loan.workspace, loan.stream);
}
template <auto run, GeometryOf geometry, auto wants_forward>
void run_backward(const engine::BackwardProblem& p, const Plans& plans, const Loan& loan) {
  if (plans.list != nullptr) {
    const auto transposed = of_list<geometry>(p, *plans.list, Direction::kTransposed, Pass::kBackward, loan);
    std::unique_ptr<const DevicePlan> forward;
    if (wants_forward(p)) forward = of_list<geometry>(p, *plans.list, Direction::kForward, Pass::kBackward, loan);
    const engine::BlocksOnDevice* const gated = plans.list->gate_grad != nullptr ? plans.list : nullptr;
    return run(p, {.transposed = *transposed, .forward = forward.get(), .list = gated}, loan.workspace, loan.stream);
  }
  const DevicePlan* forward = plans.forward ? &on_device(*plans.forward, p, loan) : nullptr;
  run(p, {.transposed = on_device(*plans.transposed, p, loan), .forward = forward}, loan.workspace, loan.stream);
}

struct Listed {
  Engine engine;
  bool (*runs_on)(int architecture);
  const char* wants;
};

// In order of preference.
constexpr Listed kEngines[] = {
    {{"cuda sm90", sm90_geometry, sm90::capability, sm90::backward_wants_forward_plan,
      run_forward<sm90::forward, sm90_geometry>,
      run_backward<sm90_backward, sm90_geometry, sm90::backward_wants_forward_plan>, engine::cuda::workers,
      plans_list<sm90_geometry>, true},
     [](int architecture) { return architecture == 90; },
     "compute capability 9.0"},
    {{"cuda sm80", sm80_geometry, sm80::capability, sm80::backward_wants_forward_plan,
      run_forward<sm80::forward, sm80_geometry>,
      run_backward<sm80::backward, sm80_geometry, sm80::backward_wants_forward_plan>, engine::cuda::workers,
      plans_list<sm80_geometry>, true},
     [](int architecture) { return architecture >= 80; },
     "compute capability 8.0 or later"},
};

// Of LibTorch's C interface, in libtorch_cuda.so since 2.10.
struct FromTorch {
  AOTITorchError (*get_current_stream)(int32_t device, void** stream);
  AOTITorchError (*allocate)(uint64_t bytes, void** data);
  AOTITorchError (*give_back)(void* data);
};

template <class Function>
void find(Function*& function, const char* name) {
  function = loaded<Function>("libtorch_cuda.so", name);
  if (!function)
    throw std::runtime_error(
        fmt::format("this LibTorch has no {} in libtorch_cuda.so; 2.10 and later ones have", name));
}

const FromTorch& from_torch() {
  static const FromTorch functions = [] {
    FromTorch f;
    find(f.get_current_stream, "aoti_torch_get_current_cuda_stream");
    find(f.allocate, "aoti_torch_cuda_caching_allocator_raw_alloc");
    find(f.give_back, "aoti_torch_cuda_caching_allocator_raw_delete");
    return f;
  }();
  return functions;
}

}  // namespace

const Engine& choose_engine(Place device, const Problem& problem, std::string_view wanted) {
  const int architecture = engine::cuda::architecture(device.index);
  const auto is_wanted = [&](const Listed& listed) { return wanted == listed.engine.name; };
  const bool asked = std::any_of(std::begin(kEngines), std::end(kEngines), is_wanted);
  std::string reasons;
  for (const Listed& listed : kEngines) {
    if (asked && !is_wanted(listed)) continue;
    std::string reason;
    if (listed.runs_on(architecture)) {
      const engine::Capability capability = listed.engine.capability(problem);
      if (capability.yes) return listed.engine;
      reason = capability.reason;
    } else {
      reason =
          fmt::format("it wants {}, {} has {}.{}", listed.wants, text(device), architecture / 10, architecture % 10);
    }
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", listed.engine.name, reason);
  }
  core::refuse("the call", "must be one that a CUDA engine takes", reasons,
               asked ? kNoEngineAskedFor : "convert q, k and v, or move them with .cpu()");
}

std::vector<const char*> engine_names() {
  std::vector<const char*> names;
  for (const Listed& listed : kEngines) names.push_back(listed.engine.name);
  return names;
}

Loan lend(Place device) {
  Loan loan;
  loan.device = device.index;
  const FromTorch& torch = from_torch();
  if (torch.get_current_stream(device.index, &loan.stream))
    throw std::runtime_error(fmt::format("LibTorch gave no current stream on {}", text(device)));
  loan.capturing = engine::cuda::capturing(loan.stream);
  // Blocks come from the current stream's pool and go back to it, in the order of the stream.
  loan.workspace.allocate = [&torch, device](size_t bytes) {
    void* data = nullptr;
    if (torch.allocate(bytes, &data)) out_of_memory(static_cast<int64_t>(bytes), device);
    return data;
  };
  loan.workspace.free = [&torch](void* data) { torch.give_back(data); };
  return loan;
}

std::vector<EngineReport> reports() {
  std::string why;
  const int devices = engine::cuda::device_count(&why);
  std::vector<EngineReport> reports;
  for (const Listed& listed : kEngines) {
    EngineReport report{listed.engine.name, false, why};
    for (int d = 0; d < devices; ++d) {
      const int architecture = engine::cuda::architecture(d);
      const bool runs = listed.runs_on(architecture);
      report.yes = report.yes || runs;
      report.reason += fmt::format("{}device {}, {}: {}", d ? "; " : "", d, engine::cuda::device_name(d),
                                   runs ? "yes" : fmt::format("wants {}", listed.wants));
    }
    reports.push_back(report);
  }
  return reports;
}

}  // namespace longstride::op::cuda

namespace longstride {
std::string gpu_name(int index) { return engine::cuda::device_name(index); }
}  // namespace longstride
