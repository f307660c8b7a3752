// What the CPU engine can do and the tile shapes that it wants from the planner. Called by src/op and the tests.
#include "engine/cpu/cpu.h"

#include <algorithm>
#include <string>

#include "core/refuse.h"
#include "engine/cpu/products.h"
#include "engine/cpu/team.h"

namespace longstride::engine::cpu {

// Causal columns come in 32: what the forward multiplies at the diagonal (kDiagonalRows), and the backward's pieces.
// The forward's rows share each block of keys: 256 took 2 % less time than 128 (causal, len 32768, two cores of an
// EPYC).
Geometry geometry(core::DType, int64_t, bool causal, Direction direction) {
  Geometry g;
  g.tile_rows = direction == Direction::kForward ? 256 : 128;
  g.column_block = causal ? 32 : 64;
  g.column_quantum = kGroup;
  g.run_row_quantum = kRowQuantum;
  g.run_columns = 400.0 / g.tile_rows;  // a run costs as much as so many pairs; 1024 measured alike
  g.tile_columns = g.run_columns;
  g.diagonal_rows = kDiagonalRows;
  return g;
}

// By the bytes of a head's keys and values, or of its dQ, in float32 and without padding: at the edge this may differ
// from what the engine then does, and a plan with parts is only less apt.
int32_t workers(const Problem& p, Direction direction, int threads) {
  const int64_t heads = p.batch * p.kv_heads;
  if (threads <= 1 || heads == 0) return 1;
  threads = std::min(threads, int{Geometry::kMostWorkers});
  if (direction == Direction::kForward) {
    return forward_side_by_side(heads, threads, 2 * p.len_k * p.dim * 4) ? 1 : threads;
  }
  return backward_side_by_side(heads, threads) ? 1 : backward_parts(p.len_q * p.dim * 4, threads);
}

Capability capability(const Problem& p) {
  if (p.dtype == core::DType::kFloat64) {
    return {false, "the CPU engine computes in float32; float64 is the reference engine's"};
  }
  if (p.dim < 1) return {false, "dim must be at least 1"};
  if (p.float32_results && p.dtype != core::DType::kFloat32)
    return {false, "results are of the dtype of q; convert q, k and v to float32"};
  if (p.plan_tokens != 0)
    return {false,
            "plan_tokens must be 0, got " + std::to_string(p.plan_tokens) + "; compile a plan for this position"};
  return {true, "cpu"};
}

void check(const Problem& p, const PlanView& plan, Direction direction) {
  const Capability can = capability(p);
  if (!can.yes) core::refuse("problem", "must be one that the CPU engine takes", can.reason, "ask capability() first");
  if (plan.direction != direction) {
    core::refuse("plan", direction == Direction::kForward ? "must be a forward plan" : "must be a transposed plan",
                 plan.direction == Direction::kForward ? "a forward plan" : "a transposed plan",
                 "compile it for this direction");
  }
  if (std::ssize(plan.class_of) != p.batch * p.kv_heads) {
    core::refuse("plan", "must name a class for each of batch x kv_heads", plan.class_of.size(),
                 "compile it for this call's lengths");
  }
  if (p.dropout_p > 0 && !p.dropout_seed) {
    core::refuse("dropout_seed", "must be given when dropout_p > 0", "none", "pass one int64 seed");
  }
  if (p.alibi && !p.alibi_slopes) {
    core::refuse("alibi_slopes", "must be given where alibi is set", "none", "pass one float32 slope a head");
  }
  for (const Run& run : plan.runs) {
    if (run.buffer != 0) {
      core::refuse("plan", "must read the local keys only on the CPU", "buffer " + std::to_string(run.buffer),
                   "compile it without context parallelism");
    }
  }
}

}  // namespace longstride::engine::cpu
