// Tensor maps for the copy engine: a level's stride is a dimension, so a strided tile is an address, not a gather.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <string>

#include "engine/contract.h"

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
  static constexpr int kStrides = 8;
  TensorMaps of_stride[kStrides];
};

// What keeps the copy engine from reading a tensor ("" if nothing): alignment, strides.
std::string why_not(const ConstTensorRef&, core::DType);

// Maps for boxes of `rows` x `box` elements. Throws Error with the driver's answer if it refuses.
MapPair make_maps(const ConstTensorRef&, core::DType, int64_t batch, int64_t len, int64_t heads, int64_t dim,
                  int64_t stride, int rows, int box);

}  // namespace longstride::engine::cuda::sm90
