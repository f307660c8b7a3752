// The Hopper engine: TMA and WGMMA.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// Tile shapes that the kernels want. Forward: 128 queries against blocks of 128 keys. Transposed: 128 keys against
// blocks of 64 queries.
inline Geometry geometry(Direction direction) {
  Geometry g;
  g.tile_rows = 128;
  g.column_block = direction == Direction::kForward ? 128 : 64;
  g.row_quantum = 64;  // what one warpgroup takes
  // A row that is merged is written and read in float32 and makes a tile more. At 64 LongNet's causal plan is at
  // strides 2 and 16 with a quarter of the rows merged, at 256 it is at 4 and 16 with an eighth, a tenth fewer tiles
  // and 1 % more pairs computed.
  g.merge_columns = 256;
  return g;
}

constexpr int64_t kMostDim = 256;

// What the kernels take; forward and backward throw Error with the reason for the rest. Memory beyond the workspace is
// never taken, and nothing waits for the device, but for gates (gates.h). Tensors whose address or strides are no
// multiples of 16 bytes, and odd dims, cost one copy of that tensor.
Capability capability(const Problem&);
void forward(const ForwardProblem&, const DevicePlan&, const Workspace&, Stream);
// dQ is added in no fixed order, unless p.deterministic asks for one: then the forward plan is needed too, as for dims
// over 128, and the products are 8 instead of 5.
void backward(const BackwardProblem&, const BackwardPlans&, const Workspace&, Stream);
bool backward_wants_forward_plan(const Problem&);

}  // namespace longstride::engine::cuda::sm90
