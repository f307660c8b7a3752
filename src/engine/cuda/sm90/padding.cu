// The copies of padding.h. Elements are 16 bits wide whatever they mean.
#include "engine/cuda/sm90/padding.h"
#include "engine/cuda/sm90/tensor_maps.h"

namespace longstride::engine::cuda::sm90 {
namespace {

constexpr int kThreads = 256;

__global__ void copy_elements(ConstTensorRef from, TensorRef to, int64_t len, int64_t heads, int64_t dim,
                              int64_t count) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t d = index % dim, h = index / dim % heads, i = index / dim / heads % len, b = index / dim / heads / len;
  const auto* source = static_cast<const uint16_t*>(from.data);
  auto* target = static_cast<uint16_t*>(to.data);
  target[b * to.batch_stride + i * to.len_stride + h * to.head_stride + d] =
      source[b * from.batch_stride + i * from.len_stride + h * from.head_stride + d];
}

}  // namespace

bool takes_pairs(const TensorRef& t, int64_t dim) {
  return dim % 2 == 0 && t.batch_stride % 2 == 0 && t.len_stride % 2 == 0 && t.head_stride % 2 == 0 &&
         reinterpret_cast<uintptr_t>(t.data) % 4 == 0;
}

Padding::Padding(const Problem& p, Scratch& scratch) : problem_(p), scratch_(scratch) {}

TensorRef Padding::room(int64_t len, int64_t heads) {
  const int64_t row = (problem_.dim + 7) / 8 * 8;  // 16 bytes
  return {scratch_.take<uint16_t>(problem_.batch * len * heads * row), len * heads * row, heads * row, row};
}

void Padding::copy(const ConstTensorRef& from, const TensorRef& to, int64_t len, int64_t heads) {
  const int64_t count = problem_.batch * len * heads * problem_.dim;
  if (count == 0) return;
  copy_elements<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, scratch_.stream()>>>(
      from, to, len, heads, problem_.dim, count);
  check(cudaGetLastError(), "launch of copy_elements");
}

ConstTensorRef Padding::in(const ConstTensorRef& t, int64_t len, int64_t heads) {
  if (why_not(t, problem_.dtype).empty()) return t;
  const TensorRef copied = room(len, heads);
  copy(t, copied, len, heads);
  return copied;
}

TensorRef Padding::out(const TensorRef& t, int64_t len, int64_t heads) {
  if (problem_.float32_results || takes_pairs(t, problem_.dim)) return t;
  returns_.push_back({room(len, heads), t, len, heads});
  return returns_.back().from;
}

void Padding::finish() {
  for (const Return& r : returns_) copy(r.from, r.to, r.len, r.heads);
}

}  // namespace longstride::engine::cuda::sm90
