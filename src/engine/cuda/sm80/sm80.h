// The portable CUDA engine, for anything from Ampere on: cp.async and mma.sync, float32 included. One block of the grid
// a tile; up to dim 128 what is made of scores stays in registers.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm80 {

// Tile shapes that the kernels want; they shrink with the bytes of a row, which is what shared memory holds.
Geometry geometry(core::DType, int64_t dim, Direction);

constexpr int64_t kMostDim = 256;

// What the kernels take; forward and backward throw Error with the reason for the rest. Products are the tensor cores',
// float32 accumulation; float32 ones of three numbers of bfloat16 a float (product.cuh), above dim 128 plain float32
// multiply-adds; no TF32. Any strides with dim contiguous are read in place. Nothing waits for the device, but for
// gates (gates.h).
Capability capability(const Problem&);
void forward(const ForwardProblem&, const DevicePlan&, const Workspace&, Stream);
// 16 bits up to dim 128 in one pass over the transposed plan, dQ added in no order; everything else, and if the problem
// is deterministic or a block has too little shared memory on the current device, dQ through the forward plan and dK,
// dV through the transposed one, in a fixed order of additions: always the same bits.
bool backward_wants_forward_plan(const Problem&);
void backward(const BackwardProblem&, const BackwardPlans&, const Workspace&, Stream);

}  // namespace longstride::engine::cuda::sm80
