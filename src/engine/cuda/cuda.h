// The CUDA engine: the tile shapes that its kernels want.
//
// In the making: forward and backward for bfloat16 at dim 64 and 128 on Hopper. The forward has been checked on an H200
// against the definition (docs/ladder.md); the backward compiles and has not run yet. src/op does not call it yet.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda {

// Forward: 128 queries against blocks of 128 keys. Transposed: 128 keys against blocks of 64 queries.
inline Geometry geometry(Direction direction) {
  Geometry g;
  g.tile_rows = 128;
  g.column_block = direction == Direction::kForward ? 128 : 64;
  g.row_quantum = 64;  // what one warpgroup takes
  return g;
}

}  // namespace longstride::engine::cuda
