// What the portable kernels take, and which of them runs a problem.
#include "engine/cuda/sm80/sm80.h"

#include <fmt/format.h>

#include <limits>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/instances.h"
#include "engine/cuda/sm80/launches.h"
#include "engine/cuda/tile/values.h"

namespace longstride::engine::cuda::sm80 {
namespace {

using core::DType;

// Those of floats have no 96, which 128 serves.
template <class Element, class Call>
void at_built_dim(int64_t dim, const Call& call) {
  if constexpr (sizeof(Element) == 4) {
    at_dim<32, 48, 64, 128, 256>(dim, call);
  } else {
    at_dim<32, 48, 64, 96, 128, 256>(dim, call);
  }
}

void require(const Problem& p) {
  const Capability can = capability(p);
  if (!can.yes) core::refuse("problem", "must suit the sm80 engine", can.reason);
  if (p.dropout_p > 0 && p.dropout_seed == nullptr)
    core::refuse("dropout_seed", "must be given when dropout_p > 0", "none");
  if (p.alibi && p.alibi_slopes == nullptr) core::refuse("alibi_slopes", "must be given when alibi is set", "none");
}

}  // namespace

Geometry geometry(DType dtype, int64_t dim, Direction) {
  Geometry g;
  g.tile_rows = most_rows(core::size_bytes(dtype), dim);
  g.column_block = tile_columns(core::size_bytes(dtype));
  g.row_quantum = g.tile_rows;
  return g;
}

Capability capability(const Problem& p) {
  const auto no = [](std::string because) { return Capability{false, std::move(because)}; };
  if (p.dtype == DType::kFloat64)
    return no(fmt::format("dtype must be float32, bfloat16 or float16, got {}", core::name(p.dtype)));
  if (p.dim < 1 || p.dim > kMostDim) return no(fmt::format("dim must be 1 to {}, got {}", kMostDim, p.dim));
  if (p.kv_heads < 1 || p.heads < 1 || p.heads % p.kv_heads != 0)
    return no(fmt::format("kv_heads must divide heads, got {} and {}", p.kv_heads, p.heads));
  if (!(p.dropout_p >= 0 && p.dropout_p < 1))
    return no(fmt::format("dropout_p must lie in [0, 1), got {}", p.dropout_p));
  if (p.len_k > std::numeric_limits<int32_t>::max())
    return no(fmt::format("len_k must be below 2^31, got {}", p.len_k));
  if (std::string because = against_plan_tokens(p); !because.empty()) return no(std::move(because));
  return {true, "cuda sm80"};
}

bool backward_wants_forward_plan(const Problem& p) {
  if (p.deterministic || p.dtype == DType::kFloat32 || p.dim > kMostRowDim) return true;
  return p.dim > kMostNarrowDim && shared_bytes_of_block() < kBroadBytes;
}

void forward(const ForwardProblem& p, const DevicePlan& plan, const Workspace& workspace, Stream stream) {
  require(p);
  require_plan(p, plan, Direction::kForward, geometry(p.dtype, p.dim, Direction::kForward).tile_rows);
  Scratch scratch(workspace, stream);
  at_element<BFloat16, Float16, float>(p.dtype, [&]<class Element>() {
    at_built_dim<Element>(p.dim, [&]<int kDim>() { launch_forward<Element, kDim>(p, plan, scratch); });
  });
}

void backward(const BackwardProblem& p, const BackwardPlans& plans, const Workspace& workspace, Stream stream) {
  require(p);
  const int32_t rows = geometry(p.dtype, p.dim, Direction::kForward).tile_rows;
  const bool ordered = backward_wants_forward_plan(p);
  if (ordered) {
    if (plans.forward == nullptr)
      core::refuse("forward plan",
                   "must be given for a deterministic backward, for one of float32 and where dQ is made by itself",
                   "none");
    require_plan(p, *plans.forward, Direction::kForward, rows);
  }
  require_plan(p, plans.transposed, Direction::kTransposed, rows);
  if (p.gates != nullptr) gate_gradients(p, workspace, stream);
  if (plans.list != nullptr) gate_gradients(p, *plans.list, workspace, stream);
  Scratch scratch(workspace, stream);
  if (ordered) {
    at_element<BFloat16, Float16, float>(p.dtype, [&]<class Element>() {
      at_built_dim<Element>(p.dim, [&]<int kDim>() { launch_gradients<Element, kDim>(p, plans, scratch); });
    });
  } else {
    at_element<BFloat16, Float16>(p.dtype, [&]<class Element>() {
      at_dim<32, 48, 64, 96, 128>(p.dim, [&]<int kDim>() { launch_backward<Element, kDim>(p, plans, scratch); });
    });
  }
}

}  // namespace longstride::engine::cuda::sm80
