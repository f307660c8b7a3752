// The gradient of gates: a block of the grid takes a range and walks its pairs in square tiles, query head by query
// head. Of each tile it makes P and dS as the portable engine's backward does, of the same parts (tile/), and keeps
// nothing but their sum. Launched for both engines (gates.h).
#include <limits>
#include <vector>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/tile/launch.cuh"

namespace longstride::engine::cuda {
namespace {

// A range as the kernel reads it.
struct DeviceRange {
  int32_t batch, kv_head;
  int32_t query_begin, query_end;
  int32_t key_begin, key_end;
};

// Dims go through shared memory 64 at a time, so that one kernel a dtype serves all of them, and several blocks of the
// grid stand on a multiprocessor: while one of them loads, another multiplies.
template <class Element>
using GateShape = cuda::Shape<Element, 64>;

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
    gate_gradient_kernel(const __grid_constant__ Values p, const DeviceRange* ranges, bool causal, float* grad) {
  using Element = typename Shape::Element;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GateStorage<Shape>*>(memory);
  const DeviceRange range = ranges[blockIdx.x];
  TilePlace place{};
  place.stride = 1;
  place.batch = range.batch;
  const auto of_scores = places<Shape, kRows, kColumns>();
  float sum = 0;
  for (int head = range.kv_head * p.group; head < (range.kv_head + 1) * p.group; ++head) {
    const float2* rows = p.rows + (int64_t(range.batch) * p.heads + head) * p.len_q;
    for (int query0 = range.query_begin; query0 < range.query_end; query0 += kRows) {
      const int queries = min(kRows, range.query_end - query0), row0 = query0 - p.query_start;
      const int key_end = causal ? min(range.key_end, query0 + queries) : range.key_end;
      for (int key0 = range.key_begin; key0 < key_end; key0 += kColumns) {
        ColumnBlock b{};
        b.column0 = key0;
        b.columns = min(kColumns, key_end - key0);
        const int end = causal ? min(kColumns, max(-kRows, query0 - key0 + 1)) : kColumns;
        b.diagonals = Diagonals::of(-kRows, end);
        b.rows = queries << 16;
        b.weight = 1;
        b.masked = queries < kRows || b.columns < kColumns || end < kColumns;
        auto scores = accumulator<Shape, kRows, kColumns>();
        auto dp = accumulator<Shape, kRows, kColumns>();
        for (int x = 0; x < p.dim; x += Shape::kDim) {
          __syncthreads();  // the tile before was read
          load_rows<Shape, kRows>(p.q.head<const Element>(range.batch, head) + x, p.q, row0, 1, 0, queries, p.dim - x,
                                  s.q);
          load_rows<Shape, kRows>(p.d_out.head<const Element>(range.batch, head) + x, p.d_out, row0, 1, 0, queries,
                                  p.dim - x, s.d_out);
          load_rows<Shape, kColumns>(p.k.head<const Element>(range.batch, range.kv_head) + x, p.k, key0, 1, 0,
                                     b.columns, p.dim - x, s.k);
          load_rows<Shape, kColumns>(p.v.head<const Element>(range.batch, range.kv_head) + x, p.v, key0, 1, 0,
                                     b.columns, p.dim - x, s.v);
          if (x == 0 && threadIdx.x < kRows)
            s.query[threadIdx.x] = int(threadIdx.x) < queries ? rows[row0 + threadIdx.x] : make_float2(INFINITY, 0.f);
          arrived();
          const auto product = [](Element* of_queries, Element* of_keys, auto& to) {
            multiply<Shape>(matrix<kRows, Shape::kDim, Shape::kPitch>(of_queries),
                            matrix<kColumns, Shape::kDim, Shape::kPitch>(of_keys), to);
          };
          product(s.q, s.k, scores);
          product(s.d_out, s.v, dp);
        }
        differentiate<Shape>(
            p, b, place, query0, head, false, true, [&](int row, int) { return s.query[row]; }, of_scores, scores, dp);
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

std::vector<DeviceRange> device_ranges(const BackwardProblem& p) {
  std::vector<DeviceRange> ranges;
  ranges.reserve(p.gates->begin[p.batch * p.kv_heads]);
  const auto narrow = [](int64_t position) { return static_cast<int32_t>(position); };
  for (int64_t place = 0; place < p.batch * p.kv_heads; ++place) {
    for (int64_t n = p.gates->begin[place]; n < p.gates->begin[place + 1]; ++n) {
      const GateRange& r = p.gates->ranges[n];
      ranges.push_back({narrow(place / p.kv_heads), narrow(place % p.kv_heads), narrow(r.query_begin),
                        narrow(r.query_end), narrow(r.key_begin), narrow(r.key_end)});
    }
  }
  return ranges;
}

template <class Tag>
void launch(const BackwardProblem& p, const Workspace& workspace, Stream stream) {
  using Element = typename DeviceElement<Tag>::Type;
  using Shape = GateShape<Element>;
  const std::vector<DeviceRange> ranges = device_ranges(p);
  if (ranges.empty()) return;
  Scratch scratch(workspace, stream);
  auto* const uploaded = scratch.take<DeviceRange>(ranges.size());
  // Memory that is not pinned is read before this returns.
  check(cudaMemcpyAsync(uploaded, ranges.data(), ranges.size() * sizeof(DeviceRange), cudaMemcpyHostToDevice,
                        scratch.stream()),
        "copying the ranges of gates");
  const Values v = values<Element>(p, scratch);
  constexpr int kBytes = sizeof(GateStorage<Shape>);
  check(cudaFuncSetAttribute(gate_gradient_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory for gates");
  gate_gradient_kernel<Shape><<<static_cast<unsigned>(ranges.size()), Shape::kThreads, kBytes, scratch.stream()>>>(
      v, uploaded, p.gates->causal, static_cast<float*>(p.gates->grad));
  check(cudaGetLastError(), "launch of gate_gradient");
}

}  // namespace

void gate_gradients(const BackwardProblem& p, const Workspace& workspace, Stream stream) {
  if (capturing(stream))
    core::refuse("gates", "must be null while the stream is being captured", "gates of blocks",
                 "their list is read from the host at every call; run the step outside of a graph");
  const int64_t entries = p.gates->begin[p.batch * p.kv_heads];
  if (entries > std::numeric_limits<int32_t>::max())
    core::refuse("gates", "must be at most 2^31 - 1 on a GPU", std::to_string(entries), "use larger blocks");
  switch (p.dtype) {
    case core::DType::kFloat32:
      return launch<float>(p, workspace, stream);
    case core::DType::kBFloat16:
      return launch<core::BFloat16>(p, workspace, stream);
    case core::DType::kFloat16:
      return launch<core::Float16>(p, workspace, stream);
    case core::DType::kFloat64:
      break;
  }
  core::refuse("dtype", "must be one that a CUDA engine takes", core::name(p.dtype));
}

}  // namespace longstride::engine::cuda
