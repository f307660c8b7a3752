#include <algorithm>

#include "engine/cuda/lists/lengths.h"

namespace longstride::engine::cuda::lists {
namespace {

constexpr int kALaunch = 512;
struct Lengths {
  int32_t of[kALaunch];
};

__global__ void store_lengths(const __grid_constant__ Lengths lengths, int count, int32_t* to) {
  if (static_cast<int>(threadIdx.x) < count) to[threadIdx.x] = lengths.of[threadIdx.x];
}

}  // namespace

const int32_t* lengths_on_device(const Problem& p, const BlocksOnDevice& list, Scratch& scratch) {
  if (list.lengths == nullptr) return nullptr;
  auto* const to = scratch.take<int32_t>(p.batch);
  for (int64_t b = 0; b < p.batch; b += kALaunch) {
    Lengths lengths;
    const auto count = static_cast<int>(std::min<int64_t>(p.batch - b, kALaunch));
    for (int n = 0; n < count; ++n) lengths.of[n] = static_cast<int32_t>(std::min(list.lengths[b + n], p.len_k));
    store_lengths<<<1, kALaunch, 0, scratch.stream()>>>(lengths, count, to + b);
    check(cudaGetLastError(), "launch of store_lengths");
  }
  return to;
}

}  // namespace longstride::engine::cuda::lists
