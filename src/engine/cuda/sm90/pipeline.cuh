// What both kernels do at their barriers.
#pragma once

#include <cutlass/arch/barrier.h>

namespace longstride::engine::cuda::sm90 {

// Every warp says for itself that it is done: it has read the notes too, which no product orders.
__device__ __forceinline__ void release(cutlass::arch::ClusterBarrier& barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier.arrive();
}

}  // namespace longstride::engine::cuda::sm90
