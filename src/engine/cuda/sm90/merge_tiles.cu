// The forward of tiles that multiply nothing: they merge what partial levels saw, as those of a decoding step do, whose
// keys were cut into parts. A block an item, a warp a row; a lane looks after one merge, then after two columns in 64.
#include "engine/cuda/exponential.cuh"
#include "engine/cuda/sm90/elements.cuh"
#include "engine/cuda/sm90/launch_after.h"
#include "engine/cuda/sm90/merge_tiles.h"

namespace longstride::engine::cuda::sm90 {
namespace {

constexpr int kThreads = 128;
constexpr int kColumnsALane = 8;  // two in each 64 of at most 256

// What one merge holds of a row: where its output lies (-1: nothing was seen), and (greatest score, sum).
struct Part {
  int64_t slot = -1;
  float2 softmax = {-INFINITY, 0.f};
};

__device__ float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

__device__ float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Of merge n of the tile, for its row j.
__device__ Part part_of(const ForwardParams& p, const Tile& tile, int64_t first_slot, int n, int j, int repeat) {
  Part part;
  if (n >= tile.merge_count) return part;
  const int64_t slot = p.plan.merges[tile.merge_begin + n].slot_of_row(j, repeat);
  if (slot < 0) return part;
  part.softmax = p.partial_softmax[first_slot + slot];
  if (part.softmax.y != 0.f) part.slot = first_slot + slot;
  return part;
}

__device__ float share_of(const Part& part, float max, float scale_log2) {
  return part.slot < 0 ? 0.f : part.softmax.y * exp2_unit((part.softmax.x - max) * scale_log2);
}

template <class Element>
__global__ void merge_kernel(const __grid_constant__ ForwardParams p, int partial_dim) {
  const TilePlace place = locate(p.lanes, p.lane_count, p.group, blockIdx.x, p.plan);
  const Tile tile = p.plan.tiles[place.tile];
  const int lane = threadIdx.x % 32, head = place.kv_head * p.group + place.member;
  const int64_t of_head = int64_t(place.batch) * p.heads + head, first_slot = of_head * p.partial_rows;
  asm volatile("griddepcontrol.wait;" ::: "memory");  // for what the partial launch before wrote
  for (int j = threadIdx.x / 32; j < tile.rows; j += kThreads / 32) {
    float max = -INFINITY, sum = 0;
    for (int n = 0; n < tile.merge_count; n += 32) {
      const Part part = part_of(p, tile, first_slot, n + lane, j, place.repeat);
      const float top = fmaxf(max, warp_max(part.slot < 0 ? -INFINITY : part.softmax.x));
      const float kept = sum == 0.f ? 0.f : sum * exp2_unit((max - top) * p.scale_log2);
      sum = kept + warp_sum(share_of(part, top, p.scale_log2));
      max = top;
    }
    float2 out[kColumnsALane / 2] = {};
    for (int n = 0; n < tile.merge_count; n += 32) {
      const Part part = part_of(p, tile, first_slot, n + lane, j, place.repeat);
      const float share = share_of(part, max, p.scale_log2);
#pragma unroll 4
      for (int m = 0; m < min(32, tile.merge_count - n); ++m) {
        const int64_t slot = __shfl_sync(~0u, part.slot, m);
        const float its = __shfl_sync(~0u, share, m);
        if (slot < 0) continue;
#pragma unroll
        for (int i = 0; i < kColumnsALane / 2; ++i) {
          const int column = 64 * i + 2 * lane;
          if (column >= partial_dim) break;
          const float2 x = *reinterpret_cast<const float2*>(p.partial_out + slot * partial_dim + column);
          out[i].x = fmaf(x.x, its, out[i].x);
          out[i].y = fmaf(x.y, its, out[i].y);
        }
      }
    }
    float keep = 1;  // what `out` counts in units of exp(scale * max)
    for (int i = 0; i < tile.phantom_count; ++i) {
      const Phantoms ph = p.plan.phantoms[tile.phantom_begin + i];
      if (j < ph.row_begin || j >= ph.row_end) continue;
      const float now = fmaxf(max, 0.f);  // a phantom's score is 0
      const float factor = exp2f((max - now) * p.scale_log2);
      sum = sum * factor + float(ph.count) * exp2f(-now * p.scale_log2);
      keep *= factor;
      max = now;
    }
    const int64_t at = tile.row0 + place.shift - p.query_start + int64_t(j) * place.stride;
    if (lane == 0) p.lse[of_head * p.len_q + at] = sum == 0.f ? -INFINITY : row_lse(max, p.scale, sum);
    const float factor = (sum == 0.f ? 0.f : keep / sum) * p.dropout.gain * p.out_scale;
    const int64_t to = place.batch * p.out_batch_stride + at * p.out_len_stride + head * p.out_head_stride;
#pragma unroll
    for (int i = 0; i < kColumnsALane / 2; ++i) {
      const int column = 64 * i + 2 * lane;
      if (column >= p.dim) break;
      if (p.float32_results) {
        static_cast<float*>(p.out)[to + column] = out[i].x * factor;
        if (column + 1 < p.dim) static_cast<float*>(p.out)[to + column + 1] = out[i].y * factor;
      } else {  // there is room for a pair (padding.h)
        Element pair[2] = {static_cast<Element>(out[i].x * factor), static_cast<Element>(out[i].y * factor)};
        *reinterpret_cast<uint32_t*>(static_cast<Element*>(p.out) + to + column) = *reinterpret_cast<uint32_t*>(pair);
      }
    }
  }
}

}  // namespace

template <class Tag>
void launch_merges(const ForwardParams& params, int partial_dim, bool early, cudaStream_t stream) {
  launch_after(early, merge_kernel<ElementOf<Tag>>, params.items, kThreads, 0, stream, "launch of merge_kernel", params,
               partial_dim);
}

template void launch_merges<core::BFloat16>(const ForwardParams&, int, bool, cudaStream_t);
template void launch_merges<float>(const ForwardParams&, int, bool, cudaStream_t);
template void launch_merges<core::Float16>(const ForwardParams&, int, bool, cudaStream_t);

}  // namespace longstride::engine::cuda::sm90
