// What the Hopper kernels take. Asked by their launches before any work, so that nothing is ignored.
#include <fmt/format.h>

#include <limits>

#include "engine/cuda/sm90/sm90.h"
#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {

Capability capability(const Problem& p) {
  const auto no = [](std::string because) { return Capability{false, std::move(because)}; };
  if (p.dtype != core::DType::kBFloat16) return no(fmt::format("dtype must be bfloat16, got {}", core::name(p.dtype)));
  if (p.dim != 64 && p.dim != 128) return no(fmt::format("dim must be 64 or 128, got {}", p.dim));
  if (p.dropout_p > 0) return no(fmt::format("dropout is not built, got dropout_p = {}", p.dropout_p));
  if (p.len_k > std::numeric_limits<int32_t>::max())
    return no(fmt::format("len_k must be below 2^31, got {}", p.len_k));
  const std::pair<const char*, const ConstTensorRef*> inputs[] = {{"q", &p.q}, {"k", &p.k}, {"v", &p.v}};
  for (const auto& [name, tensor] : inputs) {
    const std::string why = why_not(*tensor, p.dtype);
    if (!why.empty()) return no(fmt::format("{}: {}", name, why));
  }
  return {true, "cuda sm90"};
}

}  // namespace longstride::engine::cuda::sm90
