// The CPU engine: vectorised, threaded, float32/bfloat16/float16 inputs with float32 accumulation.
#pragma once

#include "engine/contract.h"

namespace longstride::engine::cpu {

// The tile shapes that this engine wants from the planner.
Geometry geometry(core::DType, int64_t dim, bool causal, Direction);
// Geometry::workers: how many of `threads` will share the tiles of a head; 1 where whole heads run side by side. Reads
// the problem's shape only.
int32_t workers(const Problem&, Direction, int threads);
Capability capability(const Problem&);
void forward(const ForwardProblem&, const PlanView&, const Workspace&, Stream = nullptr);
// `plan` is the transposed plan.
void backward(const BackwardProblem&, const PlanView& plan, const Workspace&, Stream = nullptr);

// What both directions refuse before any work: throws Error unless this engine can run `plan` on `p`.
void check(const Problem& p, const PlanView& plan, Direction direction);

}  // namespace longstride::engine::cpu
