// The launchers that are built, one template each, instantiated by bfloat16*.cu, float16*.cu, float32.cu and wide.cu
// for the dims that sm80.cc asks for.
#pragma once

#include "core/half.h"
#include "engine/contract.h"
#include "engine/cuda/scratch.h"
#include "engine/cuda/tile/values.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm80 {

using core::BFloat16;
using core::Float16;

// Dims up to this run on kernels whose warps have rows whole (fragment.cuh), others on those of wide_*.cuh.
constexpr int kMostRowDim = 128;

// Rows of a tile of either plan.
constexpr int most_rows(int64_t element_bytes, int64_t dim) {
  return element_bytes == 2 && dim <= kMostRowDim ? 128 : tile_rows(element_bytes, dim);
}

template <class Element, int kDim>
void launch_forward(const ForwardProblem&, const DevicePlan&, Scratch&);

// dQ, dK and dV in one pass over the transposed plan: 16 bits, dims to kMostRowDim.
template <class Element, int kDim>
void launch_backward(const BackwardProblem&, const BackwardPlans&, Scratch&);

// dQ through the forward plan and dK, dV through the transposed one.
template <class Element, int kDim>
void launch_gradients(const BackwardProblem&, const BackwardPlans&, Scratch&);

// Shared memory of a block of that one pass: what every card from Ampere on gives up to dim 64, and above that what
// those for data centres give.
constexpr int kMostNarrowDim = 64;
constexpr int kNarrowBytes = 99 * 1024, kBroadBytes = 163 * 1024;

}  // namespace longstride::engine::cuda::sm80
