// The gradient of gates: a block of the grid takes a block of the pattern and walks its pairs in square tiles, query
// head by query head. Of each tile it makes P and dS as the portable engine's backward does, with the parts of that
// engine, and keeps nothing but their sum. Those parts run on Hopper too; launched for both engines (gates.h).
#include <algorithm>
#include <limits>
#include <vector>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/sm80/launch.cuh"

namespace longstride::engine::cuda {
namespace {

// The positions of an entry's pairs, what lies beyond the tensors or a row's length cut off; all pairs, or if causal
// those with key <= query.
struct GateExtent {
  int32_t batch, kv_head;
  int32_t query_begin, query_end;
  int32_t key_begin, key_end;
};

// Dims go through shared memory 64 at a time, so that one kernel a dtype serves all of them, and several blocks of the
// grid stand on a multiprocessor: while one of them loads, another multiplies.
template <class Element>
using GateShape = sm80::Shape<Element, 64>;

template <class Shape>
struct GateStorage {
  using Element = typename Shape::Element;
  alignas(16) Element q[Shape::kRows * Shape::kPitch];
  alignas(16) Element d_out[Shape::kRows * Shape::kPitch];
  alignas(16) Element k[Shape::kColumns * Shape::kPitch];
  alignas(16) Element v[Shape::kColumns * Shape::kPitch];
  float2 query[Shape::kRows];  // (lse, delta)
  float sums[Shape::kThreads / 32];
};

// The sum of all threads' values, in thread 0; always in one order.
template <class Shape>
__device__ __forceinline__ float sum_of_threads(float sum, GateStorage<Shape>& s) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (const float warp : s.sums) sum += warp;
  return sum;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads)
    gate_gradient_kernel(const __grid_constant__ sm80::Values p, const GateExtent* extents, bool causal, float* grad) {
  using Element = typename Shape::Element;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GateStorage<Shape>*>(memory);
  const GateExtent its = extents[blockIdx.x];
  Place at{};
  at.stride = 1;
  at.batch = its.batch;
  const auto of_scores = sm80::places<Shape, kRows, kColumns>();
  float sum = 0;
  for (int head = its.kv_head * p.group; head < (its.kv_head + 1) * p.group; ++head) {
    const float2* rows = p.rows + (int64_t(its.batch) * p.heads + head) * p.len_q;
    for (int query0 = its.query_begin; query0 < its.query_end; query0 += kRows) {
      const int queries = min(kRows, its.query_end - query0), row0 = query0 - p.query_start;
      const int key_end = causal ? min(its.key_end, query0 + queries) : its.key_end;
      for (int key0 = its.key_begin; key0 < key_end; key0 += kColumns) {
        Block b{};
        b.column0 = key0;
        b.columns = min(kColumns, key_end - key0);
        b.diagonal = causal ? query0 - key0 + 1 : kColumns;
        b.rows = queries << 16;
        b.weight = 1;
        b.masked = queries < kRows || b.columns < kColumns || b.diagonal < kColumns;
        auto scores = sm80::accumulator<Shape, kRows, kColumns>();
        auto dp = sm80::accumulator<Shape, kRows, kColumns>();
        for (int x = 0; x < p.dim; x += Shape::kDim) {
          __syncthreads();  // the tile before was read
          sm80::load_rows<Shape, kRows>(p.q.head<const Element>(its.batch, head) + x, p.q, row0, 1, 0, queries,
                                        p.dim - x, s.q);
          sm80::load_rows<Shape, kRows>(p.d_out.head<const Element>(its.batch, head) + x, p.d_out, row0, 1, 0, queries,
                                        p.dim - x, s.d_out);
          sm80::load_rows<Shape, kColumns>(p.k.head<const Element>(its.batch, its.kv_head) + x, p.k, key0, 1, 0,
                                           b.columns, p.dim - x, s.k);
          sm80::load_rows<Shape, kColumns>(p.v.head<const Element>(its.batch, its.kv_head) + x, p.v, key0, 1, 0,
                                           b.columns, p.dim - x, s.v);
          if (x == 0 && threadIdx.x < kRows)
            s.query[threadIdx.x] = int(threadIdx.x) < queries ? rows[row0 + threadIdx.x] : make_float2(INFINITY, 0.f);
          sm80::arrived();
          const auto product = [](Element* of_queries, Element* of_keys, auto& to) {
            sm80::multiply<Shape>(sm80::tile<kRows, Shape::kDim, Shape::kPitch>(of_queries),
                                  sm80::tile<kColumns, Shape::kDim, Shape::kPitch>(of_keys), to);
          };
          product(s.q, s.k, scores);
          product(s.d_out, s.v, dp);
        }
        sm80::differentiate<Shape>(
            p, b, at, query0, head, false, [&](int row, int) { return s.query[row]; }, of_scores, scores, dp);
        float of_tile = 0;  // by itself first: what is added to a long sum is rounded to its size
#pragma unroll
        for (int i = 0; i < cute::size(dp); ++i) of_tile += dp(i);
        sum += of_tile;
      }
    }
  }
  sum = sum_of_threads(sum, s);
  if (threadIdx.x == 0) grad[blockIdx.x] = sum;
}

std::vector<GateExtent> extents_of(const Problem& p, const GateBlocks& gates) {
  std::vector<GateExtent> extents;
  extents.reserve(gates.begin[p.batch * p.kv_heads * gates.key_blocks]);
  for (int64_t column = 0; column < p.batch * p.kv_heads * gates.key_blocks; ++column) {
    const int64_t place = column / gates.key_blocks, b = place / p.kv_heads;
    const int64_t len = gates.lengths ? std::min(p.len_k, gates.lengths[b]) : p.len_k;
    const int64_t key_begin = column % gates.key_blocks * gates.block_size;
    for (int64_t n = gates.begin[column]; n < gates.begin[column + 1]; ++n) {
      int64_t query_begin = gates.query_block[n] * gates.block_size;
      const int64_t query_end = std::min({query_begin + gates.block_size, p.query_start + p.len_q, len});
      int64_t key_end = std::min(key_begin + gates.block_size, len);
      query_begin = std::max(query_begin, p.query_start);
      if (gates.causal) {
        query_begin = std::max(query_begin, key_begin);
        key_end = std::min(key_end, query_end);
      }
      const auto narrow = [](int64_t position) { return static_cast<int32_t>(position); };
      extents.push_back({narrow(b), narrow(place % p.kv_heads), narrow(std::min(query_begin, query_end)),
                         narrow(query_end), narrow(std::min(key_begin, key_end)), narrow(key_end)});
    }
  }
  return extents;
}

template <class Tag>
void launch(const Problem& p, const Gradients& g, const Workspace& workspace, cudaStream_t stream) {
  using Element = typename sm80::DeviceElement<Tag>::Type;
  using Shape = GateShape<Element>;
  const std::vector<GateExtent> extents = extents_of(p, *g.gates);
  if (extents.empty()) return;
  Scratch scratch(workspace, stream);
  auto* const uploaded = scratch.take<GateExtent>(extents.size());
  // Memory that is not pinned is read before this returns.
  check(cudaMemcpyAsync(uploaded, extents.data(), extents.size() * sizeof(GateExtent), cudaMemcpyHostToDevice, stream),
        "copying the blocks of gates");
  sm80::Values v = sm80::values<Element>(p);
  v.d_out = sm80::tensor(g.d_out, p.dim, sizeof(Element));
  const int64_t rows = p.batch * p.heads * p.len_q;
  auto* const prepared = scratch.take<float2>(rows);
  v.rows = prepared;
  if (rows > 0) {
    sm80::prepare_rows_kernel<Element><<<static_cast<unsigned>((rows + 7) / 8), 256, 0, stream>>>(
        v, static_cast<const float*>(g.d_lse), rows, prepared);
    check(cudaGetLastError(), "launch of prepare_rows");
  }
  constexpr int kBytes = sizeof(GateStorage<Shape>);
  check(cudaFuncSetAttribute(gate_gradient_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory for gates");
  gate_gradient_kernel<Shape><<<static_cast<unsigned>(extents.size()), Shape::kThreads, kBytes, stream>>>(
      v, uploaded, g.gates->causal, static_cast<float*>(g.gates->grad));
  check(cudaGetLastError(), "launch of gate_gradient");
}

}  // namespace

void gate_gradients(const Problem& p, const Gradients& g, const Workspace& workspace, Stream stream) {
  if (capturing(stream))
    core::refuse("gates", "must be null while the stream is being captured", "gates of blocks",
                 "their list is read from the host at every call; run the step outside of a graph");
  const int64_t entries = g.gates->begin[p.batch * p.kv_heads * g.gates->key_blocks];
  if (entries > std::numeric_limits<int32_t>::max())
    core::refuse("gates", "must be at most 2^31 - 1 on a GPU", std::to_string(entries), "use larger blocks");
  auto* const cuda_stream = static_cast<cudaStream_t>(stream);
  switch (p.dtype) {
    case core::DType::kFloat32:
      return launch<float>(p, g, workspace, cuda_stream);
    case core::DType::kBFloat16:
      return launch<core::BFloat16>(p, g, workspace, cuda_stream);
    case core::DType::kFloat16:
      return launch<core::Float16>(p, g, workspace, cuda_stream);
    case core::DType::kFloat64:
      break;
  }
  core::refuse("dtype", "must be one that a CUDA engine takes", core::name(p.dtype));
}

}  // namespace longstride::engine::cuda
