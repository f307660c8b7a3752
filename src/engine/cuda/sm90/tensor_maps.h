// Tensor maps for the copy engine: a level's stride is a dimension, so a strided tile is an address, not a gather.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// Two maps a tensor and stride L, both [batch, head, row, residue, dim]: `all` covers floor(len / L) rows of all
// residues (not to be used if len < L), `front` ceil(len / L) rows of the residues below len mod L (not to be used if
// there are none).
struct MapPair {
  CUtensorMap all;
  CUtensorMap front;
};

struct TensorMaps {
  MapPair q, k, v;
};

// One set for each distinct stride of a launch.
struct MapSet {
  TensorMaps of_stride[LaunchOrder::kMostStrides];
};

// What the driver is told of one map: [batch, head, row, residue, dim], innermost first as it wants them.
struct MapShape {
  uint64_t extents[5];
  uint64_t strides_bytes[4];  // of residue, row, head, batch
  uint32_t boxes[5] = {1, 1, 1, 1, 1};
  int swizzle_bytes = 128;
};
MapShape map_shape(const ConstTensorRef&, core::DType, int64_t batch, int64_t rows, int64_t residues, int64_t heads,
                   int64_t dim, int64_t stride, int box_rows, int box);

// What keeps the copy engine from reading a tensor ("" if nothing): alignment, strides.
std::string why_not(const ConstTensorRef&, core::DType);

// Maps for boxes of `rows` x `box` elements. Throws Error with the driver's answer if it refuses.
MapPair make_maps(const ConstTensorRef&, core::DType, int64_t batch, int64_t len, int64_t heads, int64_t dim,
                  int64_t stride, int rows, int box);

}  // namespace longstride::engine::cuda::sm90
