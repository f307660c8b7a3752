// Launches a forward kernel for the levels of a plan that run at one time. Included by forward_launch.cuh and
// forward_short_launch.cuh.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "engine/cuda/device.h"
#include "engine/cuda/shared_bytes.h"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/forward.cuh"
#include "engine/cuda/sm90/launch_after.h"
#include "engine/cuda/sm90/launches.h"
#include "longstride/error.h"

namespace longstride::engine::cuda::sm90 {

// `early`: it may begin before the launch before it ends (and waits where it reads what that one wrote).
template <class Shape>
void launch_levels(const ForwardProblem& p, const LaunchLanes& lanes, const ForwardParams& params, bool early,
                   cudaStream_t stream) {
  MapSet maps;
  for (size_t i = 0; i < lanes.strides.size(); ++i) {
    const int64_t stride = lanes.strides[i];
    maps.of_stride[i].q = make_maps(p.q, p.dtype, p.batch, p.len_q, p.heads, p.dim, stride, Shape::kRows, Shape::kBox);
    maps.of_stride[i].k =
        make_maps(p.k, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kColumns, Shape::kBox);
    maps.of_stride[i].v =
        make_maps(p.v, p.dtype, p.batch, p.len_k, p.kv_heads, p.dim, stride, Shape::kColumns, Shape::kBox);
  }
  constexpr int kBytes = sizeof(ForwardStorage<Shape>);
  static_assert(kBytes <= 227 * 1024);
  allow_shared_bytes<forward_kernel<Shape>>(kBytes, "shared memory of the forward kernel");
  const int64_t blocks = std::min<int64_t>(Shape::kResident * multiprocessors(), lanes.items);
  launch_after(early, forward_kernel<Shape>, blocks, Shape::kThreads, kBytes, stream, "launch of the forward kernel",
               params, maps);
}

// Whether there is a kernel for tiles of few columns; those of other dims and calls are seldom many.
template <class Tag, int kDim, class Calls>
constexpr bool kHasShortTiles = kPartsOf<Tag> == 1 && std::is_same_v<Calls, Plain> && (kDim == 48 || kDim == 64);

// That one. Defined in forward_short_launch.cuh, for the files forward_*_short.cu.
template <class Tag, int kDim>
void launch_short_tiles(const ForwardProblem&, const LaunchLanes&, const ForwardParams&, bool early, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
