// The forward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include "engine/cuda/extras.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {
namespace {

using core::DType;

enum class Calls { kPlain, kDropout, kExtras };

// Dropout alone has kernels of its own: with the bias beside it, a forward that drops takes 7 % longer.
Calls calls_of(const Problem& p) {
  if (adjusts_scores(p) || p.float32_results) return Calls::kExtras;
  return p.drops() ? Calls::kDropout : Calls::kPlain;
}

struct Instance {
  DType dtype;
  int dim;  // problems of this dim or less, beyond the instance before
  Calls calls;
  void (*launch)(const ForwardProblem&, const DevicePlan&, Scratch&);
};

constexpr Instance kInstances[] = {
    {DType::kBFloat16, 32, Calls::kPlain, launch_forward<BFloat16, 32, Plain>},
    {DType::kBFloat16, 48, Calls::kPlain, launch_forward<BFloat16, 48, Plain>},
    {DType::kBFloat16, 64, Calls::kPlain, launch_forward<BFloat16, 64, Plain>},
    {DType::kBFloat16, 96, Calls::kPlain, launch_forward<BFloat16, 96, Plain>},
    {DType::kBFloat16, 128, Calls::kPlain, launch_forward<BFloat16, 128, Plain>},
    {DType::kBFloat16, 256, Calls::kPlain, launch_forward<BFloat16, 256, Plain>},
    {DType::kFloat16, 32, Calls::kPlain, launch_forward<Float16, 32, Plain>},
    {DType::kFloat16, 48, Calls::kPlain, launch_forward<Float16, 48, Plain>},
    {DType::kFloat16, 64, Calls::kPlain, launch_forward<Float16, 64, Plain>},
    {DType::kFloat16, 96, Calls::kPlain, launch_forward<Float16, 96, Plain>},
    {DType::kFloat16, 128, Calls::kPlain, launch_forward<Float16, 128, Plain>},
    {DType::kFloat16, 256, Calls::kPlain, launch_forward<Float16, 256, Plain>},
    {DType::kBFloat16, 32, Calls::kDropout, launch_forward<BFloat16, 32, WithDropout>},
    {DType::kBFloat16, 48, Calls::kDropout, launch_forward<BFloat16, 48, WithDropout>},
    {DType::kBFloat16, 64, Calls::kDropout, launch_forward<BFloat16, 64, WithDropout>},
    {DType::kBFloat16, 96, Calls::kDropout, launch_forward<BFloat16, 96, WithDropout>},
    {DType::kBFloat16, 128, Calls::kDropout, launch_forward<BFloat16, 128, WithDropout>},
    {DType::kBFloat16, 256, Calls::kDropout, launch_forward<BFloat16, 256, WithDropout>},
    {DType::kFloat16, 32, Calls::kDropout, launch_forward<Float16, 32, WithDropout>},
    {DType::kFloat16, 48, Calls::kDropout, launch_forward<Float16, 48, WithDropout>},
    {DType::kFloat16, 64, Calls::kDropout, launch_forward<Float16, 64, WithDropout>},
    {DType::kFloat16, 96, Calls::kDropout, launch_forward<Float16, 96, WithDropout>},
    {DType::kFloat16, 128, Calls::kDropout, launch_forward<Float16, 128, WithDropout>},
    {DType::kFloat16, 256, Calls::kDropout, launch_forward<Float16, 256, WithDropout>},
    {DType::kBFloat16, 32, Calls::kExtras, launch_forward<BFloat16, 32, Extras>},
    {DType::kBFloat16, 48, Calls::kExtras, launch_forward<BFloat16, 48, Extras>},
    {DType::kBFloat16, 64, Calls::kExtras, launch_forward<BFloat16, 64, Extras>},
    {DType::kBFloat16, 96, Calls::kExtras, launch_forward<BFloat16, 96, Extras>},
    {DType::kBFloat16, 128, Calls::kExtras, launch_forward<BFloat16, 128, Extras>},
    {DType::kBFloat16, 256, Calls::kExtras, launch_forward<BFloat16, 256, Extras>},
    {DType::kFloat16, 32, Calls::kExtras, launch_forward<Float16, 32, Extras>},
    {DType::kFloat16, 48, Calls::kExtras, launch_forward<Float16, 48, Extras>},
    {DType::kFloat16, 64, Calls::kExtras, launch_forward<Float16, 64, Extras>},
    {DType::kFloat16, 96, Calls::kExtras, launch_forward<Float16, 96, Extras>},
    {DType::kFloat16, 128, Calls::kExtras, launch_forward<Float16, 128, Extras>},
    {DType::kFloat16, 256, Calls::kExtras, launch_forward<Float16, 256, Extras>},
};

}  // namespace

void forward(const ForwardProblem& given, const DevicePlan& plan, const Workspace& workspace, Stream stream) {
  require(given, plan, Direction::kForward);
  Scratch scratch(workspace, stream);
  Padding padding(given, scratch);
  ForwardProblem p = given;
  p.q = padding.in(given.q, given.len_q, given.heads);
  p.k = padding.in(given.k, given.len_k, given.kv_heads);
  p.v = padding.in(given.v, given.len_k, given.kv_heads);
  p.out = padding.out(given.out, given.len_q, given.heads);
  for (const Instance& instance : kInstances) {
    if (instance.dtype != p.dtype || instance.dim < p.dim || instance.calls != calls_of(p)) continue;
    instance.launch(p, plan, scratch);
    padding.finish();
    return;
  }
  throw Error("no forward kernel for this problem, though capability() took it");
}

}  // namespace longstride::engine::cuda::sm90
