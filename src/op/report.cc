// What an engine would do with a call, in words and numbers, as JSON for describe(). Nothing is run.
#include "op/report.h"

#include "core/json.h"
#include "longstride/pattern.h"

namespace longstride::op {
namespace {

nlohmann::json json_of(const PlanReport& plan) {
  return {{"plan", plan.words},
          {"tiles", plan.counts.tiles},
          {"runs", plan.counts.runs},
          {"pairs", plan.counts.seen_pairs},
          {"computed_pairs", plan.counts.computed_pairs},
          {"bytes", plan.bytes}};
}

}  // namespace

PlanReport report_plan(const Engine& engine, const engine::Problem& problem, const Pattern& pattern,
                       const Extent& extent, Direction direction) {
  const Pass pass = direction == Direction::kForward ? Pass::kForward : Pass::kBackward;
  const PlanPointer plan = plan_for(engine, problem, pattern, extent, direction, pass);
  const PlanView view = plan->view();
  return {describe(view, extent), count(view, extent), plan->bytes()};
}

CallReport report_call(const Engine& engine, const engine::Problem& problem, const Pattern& pattern,
                       const Extent& extent) {
  CallReport report;
  report.engine = engine.name;
  report.forward = report_plan(engine, problem, pattern, extent, Direction::kForward);
  report.backward = report_plan(engine, problem, pattern, extent, Direction::kTransposed);
  const PlanPointer plan = plan_for(engine, problem, pattern, extent, Direction::kForward, Pass::kForward);
  report.useful_flops = useful_flops(plan->view(), extent, problem.dim);
  report.nominal_flops = nominal_flops(pattern, extent, problem.dim);
  return report;
}

std::string json_of(const CallReport& report) {
  return core::json_text({{"engine", report.engine},
                          {"forward", json_of(report.forward)},
                          {"backward", json_of(report.backward)},
                          {"useful_flops", report.useful_flops},
                          {"nominal_flops", report.nominal_flops}});
}

}  // namespace longstride::op
