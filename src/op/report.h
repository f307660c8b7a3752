// What a call would do, without doing it. Called by describe_attention() in C++ and by the operator describe().
#pragma once

#include <string>

#include "op/engines.h"

namespace longstride::op {

struct PlanReport {
  std::string words;  // describe() of the plan
  PlanCounts counts;  // over batch and query heads
  int64_t bytes = 0;
};

struct CallReport {
  std::string engine;
  PlanReport forward, backward;  // the backward runs the transposed plan
  double useful_flops = 0;       // of one forward (plan.h)
  double nominal_flops = 0;
};

PlanReport report_plan(const Engine&, const engine::Problem&, const Pattern&, const Extent&, Direction);
CallReport report_call(const Engine&, const engine::Problem&, const Pattern&, const Extent&);

// {"engine", "forward": {"plan", "tiles", "runs", "pairs", "computed_pairs", "bytes"}, "backward": the same,
// "useful_flops", "nominal_flops"}.
std::string json_of(const CallReport&);

}  // namespace longstride::op
