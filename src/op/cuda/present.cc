// Runs calls on the CUDA engines. Only device-generic parts of LibTorch are used (its guards, its registered
// allocator), so that this builds with any LibTorch, also one without CUDA; tensors on a CUDA device come from one that
// has it.
#include <c10/core/Allocator.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/format.h>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/sm80/sm80.h"
#include "engine/cuda/sm90/sm90.h"
#include "op/cuda/cuda.h"

namespace longstride::op::cuda {
namespace {

using engine::Problem;
using engine::cuda::DevicePlan;
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

void sm90_forward(const Problem& p, const Plans& plans, const Loan& loan) {
  sm90::forward(p, on_device(*plans.forward, p, loan), loan.workspace, loan.stream);
}

void sm90_backward(const Problem& p, const engine::Gradients& g, const Plans& plans, const Loan& loan) {
  const DevicePlan* forward = plans.forward ? &on_device(*plans.forward, p, loan) : nullptr;
  sm90::backward(p, g, on_device(*plans.transposed, p, loan), forward, loan.workspace, loan.stream);
}

void sm80_forward(const Problem& p, const Plans& plans, const Loan& loan) {
  sm80::forward(p, on_device(*plans.forward, p, loan), loan.workspace, loan.stream);
}

void sm80_backward(const Problem& p, const engine::Gradients& g, const Plans& plans, const Loan& loan) {
  sm80::backward(p, g, on_device(*plans.transposed, p, loan), on_device(*plans.forward, p, loan), loan.workspace,
                 loan.stream);
}

struct Listed {
  Engine engine;
  bool (*runs_on)(int architecture);
  const char* wants;
};

// In order of preference.
constexpr Listed kEngines[] = {
    {{"cuda sm90", [](core::DType, int64_t, bool, Direction d) { return sm90::geometry(d); }, sm90::capability,
      sm90::backward_wants_forward_plan, sm90_forward, sm90_backward},
     [](int architecture) { return architecture == 90; },
     "compute capability 9.0"},
    {{"cuda sm80", [](core::DType t, int64_t dim, bool, Direction d) { return sm80::geometry(t, dim, d); },
      sm80::capability, [](const Problem&) { return true; }, sm80_forward, sm80_backward},
     [](int architecture) { return architecture >= 80; },
     "compute capability 8.0 or later"},
};

}  // namespace

const Engine& choose_engine(const c10::Device& device, const Problem& problem) {
  const int architecture = engine::cuda::architecture(device.index());
  std::string reasons;
  for (const Listed& listed : kEngines) {
    std::string reason;
    if (listed.runs_on(architecture)) {
      const engine::Capability capability = listed.engine.capability(problem);
      if (capability.yes) return listed.engine;
      reason = capability.reason;
    } else {
      reason =
          fmt::format("it wants {}, {} has {}.{}", listed.wants, device.str(), architecture / 10, architecture % 10);
    }
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", listed.engine.name, reason);
  }
  core::refuse("the call", "must be one that a CUDA engine takes", reasons,
               "convert q, k and v, or move them with .cpu()");
}

Loan lend(const c10::Device& device) {
  Loan loan;
  loan.device = device.index();
  loan.stream = c10::impl::VirtualGuardImpl(device.type()).getStream(device).native_handle();
  loan.capturing = engine::cuda::capturing(loan.stream);
  // Blocks come from the current stream's pool and go back to it, in the order of the stream.
  c10::Allocator* const allocator = c10::GetAllocator(device.type());
  loan.workspace.allocate = [allocator](size_t bytes) { return allocator->raw_allocate(bytes); };
  loan.workspace.free = [allocator](void* data) { allocator->raw_deallocate(data); };
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
