// What the portable kernels take, and which of them runs a problem.
#include "engine/cuda/sm80/sm80.h"

#include <fmt/format.h>

#include <limits>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/sm80/launches.h"
#include "engine/cuda/tile/values.h"

namespace longstride::engine::cuda::sm80 {
namespace {

using core::DType;

struct Instance {
  DType dtype;
  int dim;  // problems of this dim or less, beyond the instance before
  void (*forward)(const ForwardProblem&, const DevicePlan&, Scratch&);
  void (*gradients)(const BackwardProblem&, const BackwardPlans&, Scratch&);
  void (*backward)(const BackwardProblem&, const BackwardPlans&, Scratch&) = nullptr;  // in one pass
};

constexpr Instance kInstances[] = {
    {DType::kBFloat16, 32, launch_forward<BFloat16, 32>, launch_gradients<BFloat16, 32>, launch_backward<BFloat16, 32>},
    {DType::kBFloat16, 48, launch_forward<BFloat16, 48>, launch_gradients<BFloat16, 48>, launch_backward<BFloat16, 48>},
    {DType::kBFloat16, 64, launch_forward<BFloat16, 64>, launch_gradients<BFloat16, 64>, launch_backward<BFloat16, 64>},
    {DType::kBFloat16, 96, launch_forward<BFloat16, 96>, launch_gradients<BFloat16, 96>, launch_backward<BFloat16, 96>},
    {DType::kBFloat16, 128, launch_forward<BFloat16, 128>, launch_gradients<BFloat16, 128>,
     launch_backward<BFloat16, 128>},
    {DType::kBFloat16, 256, launch_forward<BFloat16, 256>, launch_gradients<BFloat16, 256>},
    {DType::kFloat16, 32, launch_forward<Float16, 32>, launch_gradients<Float16, 32>, launch_backward<Float16, 32>},
    {DType::kFloat16, 48, launch_forward<Float16, 48>, launch_gradients<Float16, 48>, launch_backward<Float16, 48>},
    {DType::kFloat16, 64, launch_forward<Float16, 64>, launch_gradients<Float16, 64>, launch_backward<Float16, 64>},
    {DType::kFloat16, 96, launch_forward<Float16, 96>, launch_gradients<Float16, 96>, launch_backward<Float16, 96>},
    {DType::kFloat16, 128, launch_forward<Float16, 128>, launch_gradients<Float16, 128>, launch_backward<Float16, 128>},
    {DType::kFloat16, 256, launch_forward<Float16, 256>, launch_gradients<Float16, 256>},
    {DType::kFloat32, 32, launch_forward<float, 32>, launch_gradients<float, 32>},
    {DType::kFloat32, 48, launch_forward<float, 48>, launch_gradients<float, 48>},
    {DType::kFloat32, 64, launch_forward<float, 64>, launch_gradients<float, 64>},
    {DType::kFloat32, 128, launch_forward<float, 128>, launch_gradients<float, 128>},
    {DType::kFloat32, 256, launch_forward<float, 256>, launch_gradients<float, 256>},
};

const Instance& instance_of(const Problem& p) {
  for (const Instance& instance : kInstances)
    if (instance.dtype == p.dtype && instance.dim >= p.dim) return instance;
  throw Error("no sm80 kernel for this problem, though capability() took it");
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
  return {true, "cuda sm80"};
}

bool backward_wants_forward_plan(const Problem& p) {
  if (p.deterministic || instance_of(p).backward == nullptr) return true;
  return p.dim > kMostNarrowDim && shared_bytes_of_block() < kBroadBytes;
}

void forward(const ForwardProblem& p, const DevicePlan& plan, const Workspace& workspace, Stream stream) {
  require(p);
  require_plan(p, plan, Direction::kForward, geometry(p.dtype, p.dim, Direction::kForward).tile_rows);
  Scratch scratch(workspace, stream);
  instance_of(p).forward(p, plan, scratch);
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
  Scratch scratch(workspace, stream);
  const Instance& instance = instance_of(p);
  (ordered ? instance.gradients : instance.backward)(p, plans, scratch);
}

}  // namespace longstride::engine::cuda::sm80
