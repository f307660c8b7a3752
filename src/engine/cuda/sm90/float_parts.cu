// The splitting of float_parts.h: a thread has eight numbers of a row.
#include "engine/cuda/sm90/float_parts.h"
#include "engine/cuda/tile/parts.cuh"

namespace longstride::engine::cuda::sm90 {
namespace {

constexpr int kThreads = 256, kParts = 3, kPiece = 8;

__global__ void split_kernel(ConstTensorRef from, uint4* to, uint32_t len, uint32_t heads, int dim, uint32_t pieces,
                             bool wide, int64_t count) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t row = index / pieces;
  const int first = static_cast<int>(index - row * pieces) * kPiece;
  const int64_t position = row / heads;
  const int64_t batch = position / len;
  const float* source = static_cast<const float*>(from.data) + batch * from.batch_stride +
                        (position - batch * len) * from.len_stride + (row - position * heads) * from.head_stride +
                        first;
  float x[kPiece];
  if (wide) {
#pragma unroll
    for (int i = 0; i < kPiece; i += 4) {
      const float4 four = first + i < dim ? *reinterpret_cast<const float4*>(source + i) : make_float4(0, 0, 0, 0);
      x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPiece; ++i) x[i] = first + i < dim ? source[i] : 0.f;
  }
  uint32_t parts[kParts][kPiece / 2];
#pragma unroll
  for (int i = 0; i < kPiece; i += 2)
    split<float>(x[i], x[i + 1], [&](int part) -> uint32_t& { return parts[part][i / 2]; });
#pragma unroll
  for (int part = 0; part < kParts; ++part)
    to[part * count + index] = make_uint4(parts[part][0], parts[part][1], parts[part][2], parts[part][3]);
}

}  // namespace

ConstTensorRef split_floats(const ConstTensorRef& t, int64_t batch, int64_t len, int64_t heads, int64_t dim,
                            Scratch& scratch) {
  const int64_t pieces = (dim + kPiece - 1) / kPiece, row = pieces * kPiece, count = batch * len * heads * pieces;
  auto* parts = scratch.take<uint4>(kParts * count);
  const ConstTensorRef split{parts, len * heads * row, heads * row, row};
  if (count == 0) return split;
  const bool wide = dim % 4 == 0 && t.batch_stride % 4 == 0 && t.len_stride % 4 == 0 && t.head_stride % 4 == 0 &&
                    reinterpret_cast<uintptr_t>(t.data) % 16 == 0;
  split_kernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, scratch.stream()>>>(
      t, parts, static_cast<uint32_t>(len), static_cast<uint32_t>(heads), static_cast<int>(dim),
      static_cast<uint32_t>(pieces), wide, count);
  check(cudaGetLastError(), "launch of split_kernel");
  return split;
}

}  // namespace longstride::engine::cuda::sm90
