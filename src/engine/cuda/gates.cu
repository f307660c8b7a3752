// The gradient of gates: a block of the grid takes a range and walks its pairs in square tiles, query head by query
// head, of every batch row and KV head that the range is of. Of each tile it makes P and dS as the portable engine's
// backward does, of the same parts (tile/), and keeps nothing but their sum. Launched for both engines (gates.h).
#include <limits>
#include <vector>

#include "core/refuse.h"
#include "engine/cuda/device.h"
#include "engine/cuda/gates.h"
#include "engine/cuda/lists/lengths.h"
#include "engine/cuda/tile/launch.cuh"

namespace longstride::engine::cuda {
namespace {

// A range as the kernel reads it.
struct DeviceRange {
  int32_t batch_begin, batch_end;
  int32_t kv_begin, kv_end;
  int32_t query_begin, query_end;
  int32_t key_begin, key_end;
};
struct DeviceRanges {
  const DeviceRange* ranges;
  const int32_t* lengths;  // [batch], which cut them; null: they are cut
  bool causal;
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
    gate_gradient_kernel(const __grid_constant__ Values p, const DeviceRanges all, float* grad) {
  using Element = typename Shape::Element;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<GateStorage<Shape>*>(memory);
  const DeviceRange range = all.ranges[blockIdx.x];
  TilePlace place{};
  place.stride = 1;
  const auto of_scores = places<Shape, kRows, kColumns>();
  float sum = 0;
  const int heads = (range.kv_end - range.kv_begin) * p.group;
  for (int n = 0; n < (range.batch_end - range.batch_begin) * heads; ++n) {
    const int batch = range.batch_begin + n / heads, head = range.kv_begin * p.group + n % heads;
    const int kv_head = head / p.group, length = all.lengths ? all.lengths[batch] : INT32_MAX;
    place.batch = batch;
    const float2* rows = p.rows + (int64_t(batch) * p.heads + head) * p.len_q;
    const int query_end = min(range.query_end, length);
    for (int query0 = range.query_begin; query0 < query_end; query0 += kRows) {
      const int queries = min(kRows, query_end - query0), row0 = query0 - p.query_start;
      const int most = min(range.key_end, length), key_end = all.causal ? min(most, query0 + queries) : most;
      for (int key0 = range.key_begin; key0 < key_end; key0 += kColumns) {
        ColumnBlock b{};
        b.column0 = key0;
        b.columns = min(kColumns, key_end - key0);
        const int end = all.causal ? min(kColumns, max(-kRows, query0 - key0 + 1)) : kColumns;
        b.diagonals = Diagonals::of(-kRows, end);
        b.rows = queries << 16;
        b.weight = 1;
        b.masked = queries < kRows || b.columns < kColumns || end < kColumns;
        auto scores = accumulator<Shape, kRows, kColumns>();
        auto dp = accumulator<Shape, kRows, kColumns>();
        for (int x = 0; x < p.dim; x += Shape::kDim) {
          __syncthreads();  // the tile before was read
          load_rows<Shape, kRows>(p.q.head<const Element>(batch, head) + x, p.q, row0, 1, 0, queries, p.dim - x, s.q);
          load_rows<Shape, kRows>(p.d_out.head<const Element>(batch, head) + x, p.d_out, row0, 1, 0, queries, p.dim - x,
                                  s.d_out);
          load_rows<Shape, kColumns>(p.k.head<const Element>(batch, kv_head) + x, p.k, key0, 1, 0, b.columns, p.dim - x,
                                     s.k);
          load_rows<Shape, kColumns>(p.v.head<const Element>(batch, kv_head) + x, p.v, key0, 1, 0, b.columns, p.dim - x,
                                     s.v);
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
      const int32_t b = narrow(place / p.kv_heads), j = narrow(place % p.kv_heads);
      ranges.push_back(
          {b, b + 1, j, j + 1, narrow(r.query_begin), narrow(r.query_end), narrow(r.key_begin), narrow(r.key_end)});
    }
  }
  return ranges;
}

// A thread a row of a list; lengths cut it later, batch row by batch row.
__global__ void ranges_of_rows(const __grid_constant__ BlocksOnDevice list, int32_t batch, int32_t kv_heads,
                               int64_t query_begin, int64_t query_end, int64_t len_k, DeviceRange* to) {
  const int64_t n = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (n >= list.count) return;
  const int32_t* row = list.rows + 4 * n;
  const auto within = [&](int64_t position, int64_t begin, int64_t end) {
    return static_cast<int32_t>(max(begin, min(position, end)));
  };
  const int64_t query0 = row[2] * list.block_size, key0 = row[3] * list.block_size;
  to[n] = {row[0] < 0 ? 0 : row[0],
           row[0] < 0 ? batch : row[0] + 1,
           row[1] < 0 ? 0 : row[1],
           row[1] < 0 ? kv_heads : row[1] + 1,
           within(query0, query_begin, query_end),
           within(query0 + list.block_size, query_begin, query_end),
           within(key0, 0, len_k),
           within(key0 + list.block_size, 0, len_k)};
}

template <class Tag>
void launch(const BackwardProblem& p, const DeviceRanges& ranges, int64_t count, void* grad, Scratch& scratch) {
  using Element = typename DeviceElement<Tag>::Type;
  using Shape = GateShape<Element>;
  if (count == 0) return;
  const Values v = values<Element>(p, scratch);
  constexpr int kBytes = sizeof(GateStorage<Shape>);
  check(cudaFuncSetAttribute(gate_gradient_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "shared memory for gates");
  gate_gradient_kernel<Shape><<<static_cast<unsigned>(count), Shape::kThreads, kBytes, scratch.stream()>>>(
      v, ranges, static_cast<float*>(grad));
  check(cudaGetLastError(), "launch of gate_gradient");
}

void launch_for_dtype(const BackwardProblem& p, const DeviceRanges& ranges, int64_t count, void* grad,
                      Scratch& scratch) {
  switch (p.dtype) {
    case core::DType::kFloat32:
      return launch<float>(p, ranges, count, grad, scratch);
    case core::DType::kBFloat16:
      return launch<core::BFloat16>(p, ranges, count, grad, scratch);
    case core::DType::kFloat16:
      return launch<core::Float16>(p, ranges, count, grad, scratch);
    case core::DType::kFloat64:
      break;
  }
  core::refuse("dtype", "must be one that a CUDA engine takes", core::name(p.dtype));
}

}  // namespace

void gate_gradients(const BackwardProblem& p, const Workspace& workspace, Stream stream) {
  if (capturing(stream))
    core::refuse("gates", "must be null while the stream is being captured", "gates of blocks",
                 "their list is read from the host at every call; run the step outside of a graph");
  const int64_t entries = p.gates->begin[p.batch * p.kv_heads];
  if (entries > std::numeric_limits<int32_t>::max())
    core::refuse("gates", "must be at most 2^31 - 1 on a GPU", std::to_string(entries), "use larger blocks");
  const std::vector<DeviceRange> ranges = device_ranges(p);
  Scratch scratch(workspace, stream);
  auto* const uploaded = scratch.take<DeviceRange>(ranges.size());
  // Memory that is not pinned is read before this returns.
  check(cudaMemcpyAsync(uploaded, ranges.data(), ranges.size() * sizeof(DeviceRange), cudaMemcpyHostToDevice,
                        scratch.stream()),
        "copying the ranges of gates");
  launch_for_dtype(p, {uploaded, nullptr, p.gates->causal}, entries, p.gates->grad, scratch);
}

void gate_gradients(const BackwardProblem& p, const BlocksOnDevice& list, const Workspace& workspace, Stream stream) {
  if (list.count == 0) return;
  Scratch scratch(workspace, stream);
  auto* const ranges = scratch.take<DeviceRange>(list.count);
  constexpr int kThreads = 256;
  ranges_of_rows<<<static_cast<unsigned>((list.count + kThreads - 1) / kThreads), kThreads, 0, scratch.stream()>>>(
      list, static_cast<int32_t>(p.batch), static_cast<int32_t>(p.kv_heads), p.query_start, p.query_start + p.len_q,
      p.len_k, ranges);
  check(cudaGetLastError(), "launch of ranges_of_rows");
  const DeviceRanges all{ranges, lists::lengths_on_device(p, list, scratch), list.causal};
  launch_for_dtype(p, all, list.count, list.gate_grad, scratch);
}

}  // namespace longstride::engine::cuda
