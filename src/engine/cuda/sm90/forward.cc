// The forward of the Hopper engine: checks, copies what cannot be read in place, and picks the kernel.
#include <type_traits>

#include "engine/cuda/extras.h"
#include "engine/cuda/instances.h"
#include "engine/cuda/sm90/capability.h"
#include "engine/cuda/sm90/launches.h"
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/sm90.h"

namespace longstride::engine::cuda::sm90 {

void forward(const ForwardProblem& given, const DevicePlan& plan, const Workspace& workspace, Stream stream) {
  require(given, plan, Direction::kForward, geometry(Direction::kForward));
  Scratch scratch(workspace, stream);
  Padding padding(given, scratch);
  ForwardProblem p = given;
  if (given.dtype != core::DType::kFloat32) {  // whose parts are made as the kernels want them
    p.q = padding.in(given.q, given.len_q, given.heads);
    p.k = padding.in(given.k, given.len_k, given.kv_heads);
    p.v = padding.in(given.v, given.len_k, given.kv_heads);
    p.out = padding.out(given.out, given.len_q, given.heads);
  }
  at_element<BFloat16, Float16, float>(p.dtype, [&]<class Element>() {
    // float32 has those of all calls only: beside six products what they ask counts for little.
    if constexpr (std::is_same_v<Element, float>) {
      at_dim<32, 48, 64, 96, 128>(p.dim, [&]<int kDim>() { launch_forward<float, kDim, Extras>(p, plan, scratch); });
    } else {
      at_dim<32, 48, 64, 96, 128, 256>(p.dim, [&]<int kDim>() {
        if (adjusts_scores(p) || p.float32_results) {
          launch_forward<Element, kDim, Extras>(p, plan, scratch);
        } else if (p.drops()) {  // by itself: with the bias beside it, a forward that drops takes 7 % longer
          launch_forward<Element, kDim, WithDropout>(p, plan, scratch);
        } else {
          launch_forward<Element, kDim, Plain>(p, plan, scratch);
        }
      });
    }
  });
  padding.finish();
}

}  // namespace longstride::engine::cuda::sm90
