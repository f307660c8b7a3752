// What the reference engine takes and refuses.
#include <string>

#include "core/refuse.h"
#include "engine/reference/heads.h"
#include "engine/reference/reference.h"

namespace longstride::engine::reference {

Capability capability(const Problem& p) {
  if (p.dim < 1) return {false, "dim must be at least 1, got " + std::to_string(p.dim)};
  if (p.float32_results && p.dtype != core::DType::kFloat32) return {false, "results are of the dtype of q"};
  if (p.plan_tokens != 0)
    return {false,
            "plan_tokens must be 0, got " + std::to_string(p.plan_tokens) + "; compile a plan for this position"};
  if (p.kv_heads < 1 || p.heads < 1 || p.heads % p.kv_heads != 0) {
    return {false, "kv_heads must divide heads, got " + std::to_string(p.kv_heads) + " and " + std::to_string(p.heads)};
  }
  if (!(p.dropout_p >= 0 && p.dropout_p < 1)) {
    return {false, "dropout_p must lie in [0, 1), got " + std::to_string(p.dropout_p)};
  }
  return {true, "reference"};
}

void check(const Problem& p, const PlanView& plan, Direction direction) {
  const Capability able = capability(p);
  if (!able.yes) core::refuse("problem", "must suit the reference engine", able.reason);
  if (p.dropout_p > 0 && p.dropout_seed == nullptr) {
    core::refuse("dropout_seed", "must be given when dropout_p > 0", "none");
  }
  if (p.alibi && p.alibi_slopes == nullptr) core::refuse("alibi_slopes", "must be given where alibi is set", "none");
  if (plan.direction != direction) {
    core::refuse("plan", direction == Direction::kForward ? "must be a forward plan" : "must be a transposed plan",
                 plan.direction == Direction::kForward ? "a forward plan" : "a transposed plan");
  }
  if (std::ssize(plan.class_of) != p.batch * p.kv_heads) {
    core::refuse("plan", "must have one class per batch row and KV head (" + std::to_string(p.batch * p.kv_heads) + ")",
                 plan.class_of.size(), "compile it for the extent of this problem");
  }
  for (const Run& run : plan.runs) {
    if (run.buffer != 0) {
      core::refuse("plan", "must read the local tensor only", "a run of buffer " + std::to_string(run.buffer),
                   "exchanged rows need an engine that takes buffers");
    }
  }
}

}  // namespace longstride::engine::reference
