// The backward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include <fmt/format.h>

#include "core/refuse.h"
#include "engine/cuda/extras.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {
namespace {

using core::DType;

constexpr int64_t kMostFusedDim = 128;  // dK and dV of 64 keys fill half of the registers there

struct Instance {
  DType dtype;
  int dim;  // problems of this dim or less, beyond the instance before
  bool extras;
  void (*launch)(const BackwardProblem&, const BackwardPlans&, Scratch&);
};

constexpr Instance kInstances[] = {
    {DType::kBFloat16, 32, false, launch_backward<BFloat16, 32, Plain>},
    {DType::kBFloat16, 48, false, launch_backward<BFloat16, 48, Plain>},
    {DType::kBFloat16, 64, false, launch_backward<BFloat16, 64, Plain>},
    {DType::kBFloat16, 96, false, launch_backward<BFloat16, 96, Plain>},
    {DType::kBFloat16, 128, false, launch_backward<BFloat16, 128, Plain>},
    {DType::kFloat16, 32, false, launch_backward<Float16, 32, Plain>},
    {DType::kFloat16, 48, false, launch_backward<Float16, 48, Plain>},
    {DType::kFloat16, 64, false, launch_backward<Float16, 64, Plain>},
    {DType::kFloat16, 96, false, launch_backward<Float16, 96, Plain>},
    {DType::kFloat16, 128, false, launch_backward<Float16, 128, Plain>},
    {DType::kBFloat16, 32, true, launch_backward<BFloat16, 32, Extras>},
    {DType::kBFloat16, 48, true, launch_backward<BFloat16, 48, Extras>},
    {DType::kBFloat16, 64, true, launch_backward<BFloat16, 64, Extras>},
    {DType::kBFloat16, 96, true, launch_backward<BFloat16, 96, Extras>},
    {DType::kBFloat16, 128, true, launch_backward<BFloat16, 128, Extras>},
    {DType::kFloat16, 32, true, launch_backward<Float16, 32, Extras>},
    {DType::kFloat16, 48, true, launch_backward<Float16, 48, Extras>},
    {DType::kFloat16, 64, true, launch_backward<Float16, 64, Extras>},
    {DType::kFloat16, 96, true, launch_backward<Float16, 96, Extras>},
    {DType::kFloat16, 128, true, launch_backward<Float16, 128, Extras>},
};

// Those of the one-gradient kernels: the deterministic mode, and every dim that the kernels above have not.
constexpr Instance kOrderedInstances[] = {
    {DType::kBFloat16, 64, false, launch_gradients<BFloat16, 64, Plain>},
    {DType::kBFloat16, 128, false, launch_gradients<BFloat16, 128, Plain>},
    {DType::kBFloat16, 256, false, launch_gradients<BFloat16, 256, Plain>},
    {DType::kFloat16, 64, false, launch_gradients<Float16, 64, Plain>},
    {DType::kFloat16, 128, false, launch_gradients<Float16, 128, Plain>},
    {DType::kFloat16, 256, false, launch_gradients<Float16, 256, Plain>},
    {DType::kBFloat16, 64, true, launch_gradients<BFloat16, 64, Extras>},
    {DType::kBFloat16, 128, true, launch_gradients<BFloat16, 128, Extras>},
    {DType::kBFloat16, 256, true, launch_gradients<BFloat16, 256, Extras>},
    {DType::kFloat16, 64, true, launch_gradients<Float16, 64, Extras>},
    {DType::kFloat16, 128, true, launch_gradients<Float16, 128, Extras>},
    {DType::kFloat16, 256, true, launch_gradients<Float16, 256, Extras>},
};

template <class Table>
const Instance& find(const Table& table, const Problem& p) {
  for (const Instance& instance : table)
    if (instance.dtype == p.dtype && instance.dim >= p.dim &&
        instance.extras == (p.drops() || adjusts_scores(p) || p.float32_results))
      return instance;
  throw Error("no backward kernel for this problem, though capability() took it");
}

}  // namespace

bool backward_wants_forward_plan(const Problem& p) { return p.deterministic || p.dim > kMostFusedDim; }

void backward(const BackwardProblem& given, const BackwardPlans& plans, const Workspace& workspace, Stream stream) {
  require(given, plans.transposed, Direction::kTransposed);
  const bool ordered = backward_wants_forward_plan(given);
  if (ordered) {
    if (plans.forward == nullptr)
      core::refuse("forward plan",
                   fmt::format("must be given for a deterministic backward and for dims over {}", kMostFusedDim),
                   "none");
    require(given, *plans.forward, Direction::kForward);
  }
  if (given.gates != nullptr) gate_gradients(given, workspace, stream);
  Scratch scratch(workspace, stream);
  Padding padding(given, scratch);
  BackwardProblem p = given;
  p.q = padding.in(given.q, given.len_q, given.heads);
  p.k = padding.in(given.k, given.len_k, given.kv_heads);
  p.v = padding.in(given.v, given.len_k, given.kv_heads);
  p.d_out = padding.in(given.d_out, given.len_q, given.heads);
  p.dq = padding.out(given.dq, given.len_q, given.heads);
  p.dk = padding.out(given.dk, given.len_k, given.kv_heads);
  p.dv = padding.out(given.dv, given.len_k, given.kv_heads);
  (ordered ? find(kOrderedInstances, p) : find(kInstances, p)).launch(p, plans, scratch);
  padding.finish();
}

}  // namespace longstride::engine::cuda::sm90
