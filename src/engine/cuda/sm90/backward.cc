// The backward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include <fmt/format.h>

#include "core/refuse.h"
#include "engine/cuda/extras.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/instances.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {
namespace {

constexpr int64_t kMostFusedDim = 128;  // dK and dV of 64 keys fill half of the registers there

}  // namespace

bool backward_wants_forward_plan(const Problem& p) { return p.deterministic || p.dim > kMostFusedDim; }

void backward(const BackwardProblem& given, const BackwardPlans& plans, const Workspace& workspace, Stream stream) {
  if (!has_backward(given))
    core::refuse("deterministic", "must be false in a float32 backward of the sm90 engine", "true");
  const auto require_of = [&](const DevicePlan& plan, Direction direction) {
    require(given, plan, direction, backward_geometry(given.dtype, direction));
  };
  require_of(plans.transposed, Direction::kTransposed);
  const bool ordered = backward_wants_forward_plan(given);
  if (ordered) {
    if (plans.forward == nullptr)
      core::refuse("forward plan",
                   fmt::format("must be given for a deterministic backward and for dims over {}", kMostFusedDim),
                   "none");
    require_of(*plans.forward, Direction::kForward);
  }
  if (given.gates != nullptr) gate_gradients(given, workspace, stream);
  if (plans.list != nullptr) gate_gradients(given, *plans.list, workspace, stream);
  Scratch scratch(workspace, stream);
  if (given.dtype == core::DType::kFloat32)  // its parts are made as the kernels want them
    return at_dim<32, 48, 64, 128>(given.dim, [&]<int kDim>() { launch_float_backward<kDim>(given, plans, scratch); });
  Padding padding(given, scratch);
  BackwardProblem p = given;
  p.q = padding.in(given.q, given.len_q, given.heads);
  p.k = padding.in(given.k, given.len_k, given.kv_heads);
  p.v = padding.in(given.v, given.len_k, given.kv_heads);
  p.d_out = padding.in(given.d_out, given.len_q, given.heads);
  p.dq = padding.out(given.dq, given.len_q, given.heads);
  p.dk = padding.out(given.dk, given.len_k, given.kv_heads);
  p.dv = padding.out(given.dv, given.len_k, given.kv_heads);
  const bool asks_more = adjusts_scores(p) || p.float32_results;
  const bool extras = asks_more || p.drops();
  at_element<BFloat16, Float16>(p.dtype, [&]<class Element>() {
    if (ordered) {
      at_dim<64, 128, 256>(p.dim, [&]<int kDim>() {
        (extras ? launch_gradients<Element, kDim, Extras> : launch_gradients<Element, kDim, Plain>)(p, plans, scratch);
      });
    } else {
      at_dim<32, 48, 64, 96, 128>(p.dim, [&]<int kDim>() {
        if (asks_more) {
          launch_backward<Element, kDim, Extras>(p, plans, scratch);
        } else if (p.drops()) {  // by itself, as in the forward
          launch_backward<Element, kDim, WithDropout>(p, plans, scratch);
        } else {
          launch_backward<Element, kDim, Plain>(p, plans, scratch);
        }
      });
    }
  });
  padding.finish();
}

}  // namespace longstride::engine::cuda::sm90
