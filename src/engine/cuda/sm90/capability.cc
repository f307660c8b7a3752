// What the Hopper kernels take. Asked by forward and backward before any work, so that nothing is ignored.
#include "engine/cuda/sm90/capability.h"

#include <fmt/format.h>

#include <limits>

#include "core/refuse.h"
#include "engine/cuda/sm90/sm90.h"
#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {

Capability capability(const Problem& p) {
  const auto no = [](std::string because) { return Capability{false, std::move(because)}; };
  const bool floats = p.dtype == core::DType::kFloat32;
  if (!floats && p.dtype != core::DType::kBFloat16 && p.dtype != core::DType::kFloat16)
    return no(fmt::format("dtype must be float32, bfloat16 or float16, got {}", core::name(p.dtype)));
  if (p.dim < 1 || p.dim > kMostDim) return no(fmt::format("dim must be 1 to {}, got {}", kMostDim, p.dim));
  if (floats && p.dim > kMostFloat32Dim)
    return no(fmt::format("dim must be 1 to {} of float32, got {}", kMostFloat32Dim, p.dim));
  if (p.kv_heads < 1 || p.heads < 1 || p.heads % p.kv_heads != 0)
    return no(fmt::format("kv_heads must divide heads, got {} and {}", p.kv_heads, p.heads));
  if (!(p.dropout_p >= 0 && p.dropout_p < 1))
    return no(fmt::format("dropout_p must lie in [0, 1), got {}", p.dropout_p));
  if (p.len_k > std::numeric_limits<int32_t>::max())
    return no(fmt::format("len_k must be below 2^31, got {}", p.len_k));
  if (std::string because = against_plan_tokens(p); !because.empty()) return no(std::move(because));
  return {true, "cuda sm90"};
}

void require(const Problem& p, const DevicePlan& plan, Direction direction, const Geometry& g) {
  const Capability can = capability(p);
  if (!can.yes) core::refuse("problem", "must suit the sm90 engine", can.reason);
  if (p.dropout_p > 0 && p.dropout_seed == nullptr)
    core::refuse("dropout_seed", "must be given when dropout_p > 0", "none");
  if (p.alibi && p.alibi_slopes == nullptr) core::refuse("alibi_slopes", "must be given when alibi is set", "none");
  require_plan(p, plan, direction, g.tile_rows);
}

}  // namespace longstride::engine::cuda::sm90
