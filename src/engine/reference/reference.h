// The reference engine: plain loops over any plan, float32/bfloat16/float16 through double, and float64. The referee.
#pragma once

#include "engine/contract.h"

namespace longstride::engine::reference {

Capability capability(const Problem&);
void forward(const ForwardProblem&, const PlanView&, const Workspace&, Stream = nullptr);
// `plan` is the transposed plan.
void backward(const BackwardProblem&, const PlanView& plan, const Workspace&, Stream = nullptr);

}  // namespace longstride::engine::reference
