// A warp a row. Rows of a class are counted over its lines; which line a row belongs to is found by bisection.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/refuse.h"
#include "engine/cuda/check.h"
#include "engine/cuda/device_bytes.h"
#include "engine/cuda/rows.h"

namespace longstride::engine::cuda {
namespace {

using Table = DeviceRows::View;

constexpr int kWarps = 8;  // of a block, so rows
constexpr int kMostTensors = 2;
constexpr int kMostLaneElements = 8;  // dim 256 in 32 lanes
constexpr unsigned kAll = ~0u;

struct Tensors {
  char* data[kMostTensors];
  int64_t batch_stride[kMostTensors], len_stride[kMostTensors], head_stride[kMostTensors];  // in elements
  int count;

  template <class Element>
  __device__ Element* row(int n, int64_t b, int64_t i, int64_t h) const {
    return reinterpret_cast<Element*>(data[n]) + b * batch_stride[n] + i * len_stride[n] + h * head_stride[n];
  }
};

template <class Ref>
Tensors tensors_of(const std::vector<Ref>& refs) {
  Tensors t{};
  for (const Ref& ref : refs) {
    t.data[t.count] = const_cast<char*>(static_cast<const char*>(ref.data));
    t.batch_stride[t.count] = ref.batch_stride;
    t.len_stride[t.count] = ref.len_stride;
    t.head_stride[t.count++] = ref.head_stride;
  }
  return t;
}

// One row of one place, as its line has it.
struct Place {
  int64_t place, batch, head;
  int64_t line_begin, line_end;  // of the class
  int64_t line, index;           // the row's own, and which of its rows
};

__device__ __forceinline__ bool find(const Table& t, int64_t place, int64_t n, Place& to) {
  const int64_t c = t.class_of[place];
  to.place = place;
  to.batch = place / t.heads;
  to.head = place % t.heads;
  to.line_begin = t.line_begin[c];
  to.line_end = t.line_begin[c + 1];
  if (to.line_begin == to.line_end) return false;
  int64_t low = to.line_begin, high = to.line_end;  // the last line that begins at n or before
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (t.lines[middle].before <= n ? low : high) = middle;
  }
  to.line = low;
  to.index = n - t.lines[low].before;
  return to.index < t.lines[low].count;
}

__device__ __forceinline__ int64_t packed_row(const Table& t, const Place& at, const RowLine& line, int64_t index) {
  return t.part_begin[line.part * t.places + at.place] + line.packed + index;
}

// Calls body(place) for every row of the block's warps; blockIdx.y counts places.
template <class Body>
__device__ __forceinline__ void for_each_row(const Table& t, Body&& body) {
  const int64_t n = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  for (int64_t place = blockIdx.y; place < t.places; place += gridDim.y) {
    Place at;
    if (find(t, place, n, at)) body(at);
  }
}

// Unit: as many bytes as all addresses and row lengths are multiples of; strides are in units.
template <class Unit, bool kGather>
__global__ void __launch_bounds__(32 * kWarps) move_kernel(Table t, Tensors tensors, Unit* packed, int64_t units) {
  for_each_row(t, [&](const Place& at) {
    const RowLine line = t.lines[at.line];
    Unit* other = packed + packed_row(t, at, line, at.index) * units * tensors.count;
#pragma unroll
    for (int n = 0; n < kMostTensors; ++n, other += units) {
      if (n == tensors.count) break;
      Unit* const row = tensors.row<Unit>(n, at.batch, line.first + at.index * line.step, at.head);
      for (int64_t i = threadIdx.x % 32; i < units; i += 32) {
        if (kGather) {
          other[i] = row[i];
        } else {
          row[i] = other[i];
        }
      }
    }
  });
}

// The row of a warp's lines in which `row` stands, or -1.
__device__ __forceinline__ int64_t index_in(const RowLine& line, int64_t row) {
  const int64_t past = row - line.first;
  if (past < 0) return -1;
  const int64_t n = past / line.step;
  return n < line.count && n * line.step == past ? n : -1;
}

// Calls visit(packed row) for every line in which the row stands, in their order; nothing if it stands in one before
// its own, whose warp does it. All lanes call it.
template <class Visit>
__device__ __forceinline__ void for_each_source(const Table& t, const Place& at, int64_t row, Visit&& visit) {
  const int lane = threadIdx.x % 32;
  for (int64_t begin = at.line; begin < at.line_end; begin += 32) {
    const int64_t index = begin + lane < at.line_end ? index_in(t.lines[begin + lane], row) : -1;
    for (unsigned found = __ballot_sync(kAll, index >= 0); found; found &= found - 1) {
      const int n = __ffs(found) - 1;
      visit(packed_row(t, at, t.lines[begin + n], __shfl_sync(kAll, index, n)));
    }
  }
}

__device__ __forceinline__ bool stands_before(const Table& t, const Place& at, int64_t row) {
  const int lane = threadIdx.x % 32;
  for (int64_t begin = at.line_begin; begin < at.line; begin += 32) {
    const bool there = begin + lane < at.line && index_in(t.lines[begin + lane], row) >= 0;
    if (__any_sync(kAll, there)) return true;
  }
  return false;
}

// Elements of a row that a lane has.
template <class Body>
__device__ __forceinline__ void for_each_element(int64_t dim, Body&& body) {
#pragma unroll
  for (int n = 0; n < kMostLaneElements; ++n) {
    const int64_t d = threadIdx.x % 32 + 32 * n;
    if (d < dim) body(n, d);
  }
}

template <class Element>
__global__ void __launch_bounds__(32 * kWarps) add_kernel(Table t, Tensors tensors, const float* packed, int64_t dim) {
  for_each_row(t, [&](const Place& at) {
    const int64_t row = t.lines[at.line].first + at.index * t.lines[at.line].step;
    if (stands_before(t, at, row)) return;
#pragma unroll
    for (int k = 0; k < kMostTensors; ++k) {
      if (k == tensors.count) break;
      Element* const to = tensors.row<Element>(k, at.batch, row, at.head);
      float sum[kMostLaneElements];
      for_each_element(dim, [&](int n, int64_t d) { sum[n] = static_cast<float>(to[d]); });
      for_each_source(t, at, row, [&](int64_t other) {
        const float* const from = packed + (other * tensors.count + k) * dim;
        for_each_element(dim, [&](int n, int64_t d) { sum[n] += from[d]; });
      });
      for_each_element(dim, [&](int n, int64_t d) { to[d] = static_cast<Element>(sum[n]); });
    }
  });
}

// The greater share is 1, so that nothing overflows, and a share that underflows is still multiplied: NaN stays NaN.
template <class Element>
__global__ void __launch_bounds__(32 * kWarps)
    merge_kernel(Table t, Tensors tensors, const float* packed, const float* packed_lse, float* lse, int64_t rows,
                 int64_t dim) {
  for_each_row(t, [&](const Place& at) {
    const int64_t row = t.lines[at.line].first + at.index * t.lines[at.line].step;
    if (stands_before(t, at, row)) return;
    Element* const to = tensors.row<Element>(0, at.batch, row, at.head);
    float* const to_lse = lse + at.place * rows + row;
    float out[kMostLaneElements], whole = *to_lse;
    for_each_element(dim, [&](int n, int64_t d) { out[n] = static_cast<float>(to[d]); });
    for_each_source(t, at, row, [&](int64_t other) {
      const float part = packed_lse[other];
      if (part == -INFINITY) return;
      const float* const from = packed + other * dim;
      if (whole == -INFINITY) {
        for_each_element(dim, [&](int n, int64_t d) { out[n] = from[d]; });
        whole = part;
        return;
      }
      const float high = part > whole || isnan(part) ? part : whole;
      const float mine = expf(whole - high), theirs = expf(part - high), sum = mine + theirs;
      for_each_element(dim, [&](int n, int64_t d) { out[n] = (out[n] * mine + from[d] * theirs) / sum; });
      whole = high + logf(sum);
    });
    __syncwarp();  // all lanes have read lse
    for_each_element(dim, [&](int n, int64_t d) { to[d] = static_cast<Element>(out[n]); });
    if (threadIdx.x % 32 == 0) *to_lse = whole;
  });
}

// Blocks for every row of the class with the most, times places.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Table& t, Stream stream, const Arguments&... arguments) {
  if (t.most_rows == 0 || t.places == 0) return;
  const dim3 grid(static_cast<unsigned>((t.most_rows + kWarps - 1) / kWarps),
                  static_cast<unsigned>(std::min<int64_t>(t.places, 65535)));
  kernel<<<grid, 32 * kWarps, 0, static_cast<cudaStream_t>(stream)>>>(t, arguments...);
  check(cudaGetLastError(), "launch of a kernel of rows");
}

template <class Unit, bool kGather>
void launch_move(const Table& t, Tensors tensors, void* packed, int64_t row_bytes, int64_t element_bytes,
                 Stream stream) {
  for (int n = 0; n < tensors.count; ++n) {
    for (int64_t* stride : {&tensors.batch_stride[n], &tensors.len_stride[n], &tensors.head_stride[n]})
      *stride = *stride * element_bytes / static_cast<int64_t>(sizeof(Unit));
  }
  launch(move_kernel<Unit, kGather>, t, stream, tensors, static_cast<Unit*>(packed),
         row_bytes / static_cast<int64_t>(sizeof(Unit)));
}

template <bool kGather>
void move(const DeviceRows& rows, core::DType dtype, int64_t dim, const Tensors& tensors, void* packed, Stream stream) {
  const auto element_bytes = static_cast<int64_t>(core::size_bytes(dtype));
  const int64_t row_bytes = dim * element_bytes;
  uint64_t all = static_cast<uint64_t>(row_bytes) | reinterpret_cast<uint64_t>(packed);
  for (int n = 0; n < tensors.count; ++n) {
    all |= reinterpret_cast<uint64_t>(tensors.data[n]);
    for (const int64_t stride : {tensors.batch_stride[n], tensors.len_stride[n], tensors.head_stride[n]})
      all |= static_cast<uint64_t>(stride * element_bytes);
  }
  const auto run = all % 16 == 0  ? launch_move<uint4, kGather>
                   : all % 4 == 0 ? launch_move<uint32_t, kGather>
                                  : launch_move<uint16_t, kGather>;
  run(rows.view(), tensors, packed, row_bytes, element_bytes, stream);
}

// Calls body.template operator()<Element>().
template <class Body>
void with_element(core::DType dtype, int64_t dim, Body&& body) {
  if (dim > 32 * kMostLaneElements)
    core::refuse("dim", "must be at most 256 where parts are joined on a device", std::to_string(dim));
  if (dtype == core::DType::kBFloat16) return body.template operator()<__nv_bfloat16>();
  if (dtype == core::DType::kFloat16) return body.template operator()<__half>();
  if (dtype == core::DType::kFloat32) return body.template operator()<float>();
  core::refuse("dtype", "must be float32, bfloat16 or float16 on a device", core::name(dtype));
}

}  // namespace

DeviceRows::DeviceRows(const RowTable& table) {
  const auto bytes_of = [](const auto& list) { return list.size() * sizeof(list[0]); };
  const size_t lines = bytes_of(table.lines), begin = lines + bytes_of(table.line_begin);
  const size_t classes = begin + bytes_of(table.class_of), all = classes + bytes_of(table.part_begin);
  std::vector<char> bytes(all);
  std::memcpy(bytes.data() + lines, table.line_begin.data(), begin - lines);
  std::memcpy(bytes.data() + begin, table.class_of.data(), classes - begin);
  if (lines > 0) std::memcpy(bytes.data(), table.lines.data(), lines);
  if (all > classes) std::memcpy(bytes.data() + classes, table.part_begin.data(), all - classes);
  memory_.reset(uploaded(bytes, "a table of rows"));
  const char* const base = static_cast<const char*>(memory_.get());
  view_ = {reinterpret_cast<const RowLine*>(base),
           reinterpret_cast<const int64_t*>(base + lines),
           reinterpret_cast<const int64_t*>(base + begin),
           reinterpret_cast<const int64_t*>(base + classes),
           table.heads,
           table.places(),
           table.most_rows};
}

void DeviceRows::Release::operator()(void* memory) const { release_uploaded(memory); }

void gather_rows(const DeviceRows& rows, core::DType dtype, int64_t dim, const std::vector<ConstTensorRef>& tensors,
                 void* packed, Stream stream) {
  move<true>(rows, dtype, dim, tensors_of(tensors), packed, stream);
}

void scatter_rows(const DeviceRows& rows, core::DType dtype, int64_t dim, const void* packed,
                  const std::vector<TensorRef>& tensors, Stream stream) {
  move<false>(rows, dtype, dim, tensors_of(tensors), const_cast<void*>(packed), stream);
}

void add_rows(const DeviceRows& rows, core::DType dtype, int64_t dim, const float* packed,
              const std::vector<TensorRef>& tensors, Stream stream) {
  with_element(dtype, dim, [&]<class Element>() {
    launch(add_kernel<Element>, rows.view(), stream, tensors_of(tensors), packed, dim);
  });
}

void merge_rows(const DeviceRows& rows, core::DType dtype, int64_t dim, const float* packed_out,
                const float* packed_lse, const TensorRef& out, float* lse, int64_t rows_of_shard, Stream stream) {
  with_element(dtype, dim, [&]<class Element>() {
    launch(merge_kernel<Element>, rows.view(), stream, tensors_of(std::vector<TensorRef>{out}), packed_out, packed_lse,
           lse, rows_of_shard, dim);
  });
}

void clear_bytes(void* memory, int64_t bytes, Stream stream) {
  if (bytes > 0)
    check(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "clearing rows");
}

void copy_lines(const void* from, int64_t from_pitch, void* to, int64_t to_pitch, int64_t bytes, int64_t lines,
                Stream stream) {
  if (bytes > 0 && lines > 0)
    check(cudaMemcpy2DAsync(to, static_cast<size_t>(to_pitch), from, static_cast<size_t>(from_pitch),
                            static_cast<size_t>(bytes), static_cast<size_t>(lines), cudaMemcpyDeviceToDevice,
                            static_cast<cudaStream_t>(stream)),
          "copying lines");
}

}  // namespace longstride::engine::cuda
