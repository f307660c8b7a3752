// Which engine runs a problem, and what it is lent while it runs. Torch's threads, allocators and streams stand behind
// the loan; the engines see none of them.
#pragma once

#include <memory>

#include "engine/contract.h"
#include "longstride/attention/engines.h"
#include "longstride/plan.h"
#include "op/array.h"
#include "plan/cache.h"

namespace longstride::op {

using PlanPointer = std::shared_ptr<const plan::CachedPlan>;

// The plans of one call; those that the engine does not read are null. All of them where the engine makes plans itself,
// of a list of blocks on its device.
struct Plans {
  PlanPointer forward, transposed;
  const engine::BlocksOnDevice* list = nullptr;
};

// What an engine is lent for one call.
struct Loan {
  engine::Workspace workspace;
  engine::Stream stream = nullptr;
  int device = -1;         // its number; the CPU has none
  bool capturing = false;  // the stream is being recorded: what it reads is never given back
};

// What plans are used in: an engine may want other tiles in a backward.
enum class Pass { kForward, kBackward };

struct Engine {
  const char* name;
  Geometry (*geometry)(const engine::Problem&, bool causal, Direction, Pass);
  engine::Capability (*capability)(const engine::Problem&);
  bool (*backward_wants_forward_plan)(const engine::Problem&);
  void (*forward)(const engine::ForwardProblem&, const Plans&, const Loan&);
  void (*backward)(const engine::BackwardProblem&, const Plans&, const Loan&);
  int32_t (*workers)(const engine::Problem&, Direction);                 // Geometry::workers, on the current device
  bool (*plans)(const engine::Problem&, const engine::BlocksOnDevice&);  // whether it makes plans of such a list
  bool takes_plan_tokens;  // in a forward without dropout and ALiBi: Problem::plan_tokens
};

// The one engine for this device, which is the current one, and problem: that of use_engine() if it is of this device;
// else on the CPU float64 runs on the reference engine, the other dtypes on the CPU engine. Throws Error if there is
// none; nothing falls back in silence. Pointers of the problem are not looked at.
const Engine& choose_engine(Place, const engine::Problem&);

// What to do about an engine that was asked for and cannot run a call.
constexpr const char* kNoEngineAskedFor = "leave the engine to each call: use_engine(\"\") takes the choice back";

// What plans for this engine and problem are compiled for, with as many threads as torch gives now.
Geometry geometry_for(const Engine&, const engine::Problem&, bool causal, Direction, Pass);

// The plan of a call from the cache of the process, compiled if it is not there. `pin`: never evicted.
PlanPointer plan_for(const Engine&, const engine::Problem&, const Pattern&, const Extent&, Direction, Pass,
                     bool pin = false);

// That of a forward. A decoding step on an engine that takes plan_tokens, which are set, gets the plan of its base,
// which serves many positions (plan/step_base.h).
PlanPointer forward_plan(const Engine&, engine::Problem&, const Pattern&, const Extent&, bool pin);

// On the CPU torch's threads (one inside a parallel region), memory, torch's micro-GEMM.
Loan lend(Place);

// Remembers, for last_engine(), which engine ran on this thread.
void note_engine(const Engine&);

}  // namespace longstride::op
