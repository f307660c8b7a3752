// The backward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include "core/refuse.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {
namespace {

using core::BFloat16;
using core::DType;
using core::Float16;

struct Instance {
  DType dtype;
  int dim;  // problems of this dim or less, beyond the instance before; 96 would cut its slices of dQ across boxes
  bool drops;
  void (*launch)(const Problem&, const Gradients&, const DevicePlan&, Scratch&, cudaStream_t);
};

constexpr Instance kInstances[] = {
    {DType::kBFloat16, 32, false, launch_backward<BFloat16, 32, NoDropout>},
    {DType::kBFloat16, 48, false, launch_backward<BFloat16, 48, NoDropout>},
    {DType::kBFloat16, 64, false, launch_backward<BFloat16, 64, NoDropout>},
    {DType::kBFloat16, 128, false, launch_backward<BFloat16, 128, NoDropout>},
    {DType::kFloat16, 32, false, launch_backward<Float16, 32, NoDropout>},
    {DType::kFloat16, 48, false, launch_backward<Float16, 48, NoDropout>},
    {DType::kFloat16, 64, false, launch_backward<Float16, 64, NoDropout>},
    {DType::kFloat16, 128, false, launch_backward<Float16, 128, NoDropout>},
    {DType::kBFloat16, 32, true, launch_backward<BFloat16, 32, PhiloxDropout>},
    {DType::kBFloat16, 48, true, launch_backward<BFloat16, 48, PhiloxDropout>},
    {DType::kBFloat16, 64, true, launch_backward<BFloat16, 64, PhiloxDropout>},
    {DType::kBFloat16, 128, true, launch_backward<BFloat16, 128, PhiloxDropout>},
    {DType::kFloat16, 32, true, launch_backward<Float16, 32, PhiloxDropout>},
    {DType::kFloat16, 48, true, launch_backward<Float16, 48, PhiloxDropout>},
    {DType::kFloat16, 64, true, launch_backward<Float16, 64, PhiloxDropout>},
    {DType::kFloat16, 128, true, launch_backward<Float16, 128, PhiloxDropout>},
};

}  // namespace

void backward(const Problem& given, const Gradients& gradients, const DevicePlan& plan, const Workspace& workspace,
              Stream stream) {
  require(given, plan, Direction::kTransposed);
  if (given.dim > 128) core::refuse("dim", "must be at most 128 for the sm90 backward", std::to_string(given.dim));
  if (given.deterministic)
    core::refuse("deterministic", "must be false for the sm90 backward, whose dQ is added in no fixed order", "true");
  auto* cuda_stream = static_cast<cudaStream_t>(stream);
  Scratch scratch(workspace, cuda_stream);
  Padding padding(given, scratch, cuda_stream);
  Problem p = given;
  p.q = padding.in(given.q, given.len_q, given.heads);
  p.k = padding.in(given.k, given.len_k, given.kv_heads);
  p.v = padding.in(given.v, given.len_k, given.kv_heads);
  Gradients g = gradients;
  g.d_out = padding.in(gradients.d_out, given.len_q, given.heads);
  g.dk = padding.out(gradients.dk, given.len_k, given.kv_heads);
  g.dv = padding.out(gradients.dv, given.len_k, given.kv_heads);
  for (const Instance& instance : kInstances) {
    if (instance.dtype != p.dtype || instance.dim < p.dim || instance.drops != (p.dropout_p > 0)) continue;
    instance.launch(p, g, plan, scratch, cuda_stream);
    padding.finish();
    return;
  }
  throw Error("no backward kernel for this problem, though capability() took it");
}

}  // namespace longstride::engine::cuda::sm90
