// Which engine runs a problem, and what it is lent while it runs. Torch's threads and allocator stand behind the
// workspace; the engines see neither.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <vector>

#include "engine/contract.h"
#include "longstride/attention.h"
#include "longstride/plan.h"

namespace longstride::op {

struct Engine {
  const char* name;
  Geometry (*geometry)(core::DType, int64_t dim, bool causal, Direction);
  engine::Capability (*capability)(const engine::Problem&);
  void (*forward)(const engine::Problem&, const PlanView&, const engine::Workspace&, engine::Stream);
  void (*backward)(const engine::Problem&, const engine::Gradients&, const PlanView&, const engine::Workspace&,
                   engine::Stream);
};

// The one engine for this device and problem: float64 runs on the reference engine, the other dtypes on the CPU engine.
// Throws Error if there is none; nothing falls back in silence. Pointers of the problem are not looked at.
const Engine& choose_engine(const c10::Device&, const engine::Problem&);

// The plan of a call from the cache of the process, compiled if it is not there.
std::shared_ptr<const Plan> plan_for(const Engine&, const engine::Problem&, const Pattern&, const Extent&, Direction);

// Torch's threads (one inside a parallel region), memory, torch's micro-GEMM.
engine::Workspace workspace();

// Remembers, for last_engine(), which engine ran on this thread.
void note_engine(const Engine&);

}  // namespace longstride::op
