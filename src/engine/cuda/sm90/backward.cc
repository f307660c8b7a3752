// The backward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include <fmt/format.h>

#include "core/refuse.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {
namespace {

using core::BFloat16;
using core::DType;
using core::Float16;

constexpr int64_t kMostFusedDim = 128;  // dK and dV of 64 keys fill half of the registers there

struct Instance {
  DType dtype;
  int dim;  // problems of this dim or less, beyond the instance before
  bool drops;
  void (*launch)(const Problem&, const Gradients&, const DevicePlan&, Scratch&, cudaStream_t);
};

constexpr Instance kInstances[] = {
    {DType::kBFloat16, 32, false, launch_backward<BFloat16, 32, NoDropout>},
    {DType::kBFloat16, 48, false, launch_backward<BFloat16, 48, NoDropout>},
    {DType::kBFloat16, 64, false, launch_backward<BFloat16, 64, NoDropout>},
    {DType::kBFloat16, 96, false, launch_backward<BFloat16, 96, NoDropout>},
    {DType::kBFloat16, 128, false, launch_backward<BFloat16, 128, NoDropout>},
    {DType::kFloat16, 32, false, launch_backward<Float16, 32, NoDropout>},
    {DType::kFloat16, 48, false, launch_backward<Float16, 48, NoDropout>},
    {DType::kFloat16, 64, false, launch_backward<Float16, 64, NoDropout>},
    {DType::kFloat16, 96, false, launch_backward<Float16, 96, NoDropout>},
    {DType::kFloat16, 128, false, launch_backward<Float16, 128, NoDropout>},
    {DType::kBFloat16, 32, true, launch_backward<BFloat16, 32, PhiloxDropout>},
    {DType::kBFloat16, 48, true, launch_backward<BFloat16, 48, PhiloxDropout>},
    {DType::kBFloat16, 64, true, launch_backward<BFloat16, 64, PhiloxDropout>},
    {DType::kBFloat16, 96, true, launch_backward<BFloat16, 96, PhiloxDropout>},
    {DType::kBFloat16, 128, true, launch_backward<BFloat16, 128, PhiloxDropout>},
    {DType::kFloat16, 32, true, launch_backward<Float16, 32, PhiloxDropout>},
    {DType::kFloat16, 48, true, launch_backward<Float16, 48, PhiloxDropout>},
    {DType::kFloat16, 64, true, launch_backward<Float16, 64, PhiloxDropout>},
    {DType::kFloat16, 96, true, launch_backward<Float16, 96, PhiloxDropout>},
    {DType::kFloat16, 128, true, launch_backward<Float16, 128, PhiloxDropout>},
};

// Those of the one-gradient kernels: the deterministic mode, and every dim that the kernels above have not.
struct OrderedInstance {
  DType dtype;
  int dim;
  bool drops;
  void (*launch)(const Problem&, const Gradients&, const DevicePlan&, const DevicePlan&, Scratch&, cudaStream_t);
};

constexpr OrderedInstance kOrderedInstances[] = {
    {DType::kBFloat16, 64, false, launch_gradients<BFloat16, 64, NoDropout>},
    {DType::kBFloat16, 128, false, launch_gradients<BFloat16, 128, NoDropout>},
    {DType::kBFloat16, 256, false, launch_gradients<BFloat16, 256, NoDropout>},
    {DType::kFloat16, 64, false, launch_gradients<Float16, 64, NoDropout>},
    {DType::kFloat16, 128, false, launch_gradients<Float16, 128, NoDropout>},
    {DType::kFloat16, 256, false, launch_gradients<Float16, 256, NoDropout>},
    {DType::kBFloat16, 64, true, launch_gradients<BFloat16, 64, PhiloxDropout>},
    {DType::kBFloat16, 128, true, launch_gradients<BFloat16, 128, PhiloxDropout>},
    {DType::kBFloat16, 256, true, launch_gradients<BFloat16, 256, PhiloxDropout>},
    {DType::kFloat16, 64, true, launch_gradients<Float16, 64, PhiloxDropout>},
    {DType::kFloat16, 128, true, launch_gradients<Float16, 128, PhiloxDropout>},
    {DType::kFloat16, 256, true, launch_gradients<Float16, 256, PhiloxDropout>},
};

template <class Table>
const auto& find(const Table& table, const Problem& p) {
  for (const auto& instance : table)
    if (instance.dtype == p.dtype && instance.dim >= p.dim && instance.drops == p.drops()) return instance;
  throw Error("no backward kernel for this problem, though capability() took it");
}

}  // namespace

bool backward_wants_forward_plan(const Problem& p) { return p.deterministic || p.dim > kMostFusedDim; }

void backward(const Problem& given, const Gradients& gradients, const DevicePlan& transposed, const DevicePlan* forward,
              const Workspace& workspace, Stream stream) {
  require(given, transposed, Direction::kTransposed);
  const bool ordered = backward_wants_forward_plan(given);
  if (ordered) {
    if (forward == nullptr)
      core::refuse("forward plan",
                   fmt::format("must be given for a deterministic backward and for dims over {}", kMostFusedDim),
                   "none");
    require(given, *forward, Direction::kForward);
  }
  if (gradients.gates != nullptr) gate_gradients(given, gradients, workspace, stream);
  auto* cuda_stream = static_cast<cudaStream_t>(stream);
  Scratch scratch(workspace, cuda_stream);
  Padding padding(given, scratch, cuda_stream);
  Problem p = given;
  p.q = padding.in(given.q, given.len_q, given.heads);
  p.k = padding.in(given.k, given.len_k, given.kv_heads);
  p.v = padding.in(given.v, given.len_k, given.kv_heads);
  Gradients g = gradients;
  g.d_out = padding.in(gradients.d_out, given.len_q, given.heads);
  g.dq = padding.out(gradients.dq, given.len_q, given.heads);
  g.dk = padding.out(gradients.dk, given.len_k, given.kv_heads);
  g.dv = padding.out(gradients.dv, given.len_k, given.kv_heads);
  if (ordered) {
    find(kOrderedInstances, p).launch(p, g, *forward, transposed, scratch, cuda_stream);
  } else {
    find(kInstances, p).launch(p, g, transposed, scratch, cuda_stream);
  }
  padding.finish();
}

}  // namespace longstride::engine::cuda::sm90
