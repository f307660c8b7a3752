// The online softmax of the forward's consumers, on the accumulators of one product, and the store of a finished tile.
// A thread has two rows of its warpgroup's 64 and, of every eight columns, two.
#pragma once

#include <cstdint>

#include "engine/cuda/merged_rows.h"
#include "engine/cuda/sm90/exponential.cuh"
#include "engine/cuda/sm90/forward_values.h"
#include "engine/cuda/sm90/store_row.cuh"

namespace longstride::engine::cuda::sm90 {

// The two rows of a thread: 64 * warpgroup + 16 * warp + lane / 4, and 8 further. Its columns of an accumulator: pair
// 2 * (lane % 4) of every eight.
struct RowState {
  float max[2];  // greatest score, as the product left it (negated if scale < 0)
  float sum[2];  // of weight * exp(scale * (score - max)); of this thread's columns only, until the end
};

// exp(scale * (x - max)), for a max that is not -inf.
__device__ __forceinline__ float exp_below(float x, float max, float scale_log2) {
  return exp2_unit((x - max) * scale_log2);
}

template <class Shape, class Scores>
__device__ __forceinline__ void mask(Scores& scores, const BlockNote& b, int row0) {
  const int column0 = 2 * (threadIdx.x % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const int end = row >= (b.rows & 0xffff) && row < b.rows >> 16 ? min(b.columns, row + b.diagonals.end()) : 0;
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = 8 * n + column0 + c < end ? x : -INFINITY;
      }
    }
  }
  // Apart, since a causal mask has no more than the above, and its blocks are many.
  if ((b.rows >> 16) - 1 + b.diagonals.begin() <= 0) return;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int begin = row0 + 8 * r + b.diagonals.begin();
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = 8 * n + column0 + c >= begin ? x : -INFINITY;
      }
    }
  }
}

// Turns scores into probabilities in place; `rescale` is what the old output must be multiplied with. Not kExact: by
// one multiply-add each, which is good enough if is_large() says no at the end. kExact: large terms are subtracted
// first, and a row that has none comes out as it would without, so that nothing depends on a tile's other rows. Of
// floats the greatest score is always subtracted first. drop(x, r, n, c) is what becomes of each when the sum has it,
// asked for row by row.
template <class Shape, bool kExact, class Scores, class Drop>
__device__ __forceinline__ void softmax_step(Scores& scores, RowState& state, float (&rescale)[2], float scale_log2,
                                             float weight_log2, const Drop& drop) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    // One chain: four, which need not wait for themselves, took dense 16k at dim 64 from 2.34 to 2.58 ms.
    float top = scores[2 * r];
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) top = fmaxf(top, scores[4 * n + 2 * r + c]);
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float was = state.max[r];
    const float now = fmaxf(was, top);
    state.max[r] = now;
    const float base = now == -INFINITY ? 0.f : now;  // nothing seen yet: exp2(-inf - 0) = 0
    rescale[r] = exp_below(was, base, scale_log2);
    // A row that begins at -2^31 and less must bring nothing infinite to where it ends.
    float less = 0, shift = fminf(fmaf(-base, scale_log2, weight_log2), 0x1p31f), sum = 0;
    constexpr bool kFloats = Shape::kParts > 1;
    if constexpr (kFloats) {
      less = base;
      shift = weight_log2;
    } else if constexpr (kExact) {
      const bool large = fabsf(shift) >= kMostForward;
      less = large ? base : 0.f;
      shift = large ? weight_log2 : shift;
    }
#pragma unroll
    for (int n = 0; n < Shape::kColumns / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = scores[4 * n + 2 * r + c];
        x = exp2_unit(fmaf(kExact || kFloats ? x - less : x, scale_log2, shift));
        sum += x;
        x = drop(x, r, n, c);
      }
    state.sum[r] = fmaf(state.sum[r], rescale[r], sum);
  }
}

// Whether the warp's tile must be made again with kExact: a score of its rows was large; or, of floats, one came out as
// NaN, which it may not be.
template <class Shape>
__device__ __forceinline__ bool wants_again(const RowState& state, float scale_log2) {
  bool again = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if constexpr (Shape::kParts > 1) {
      again = again || state.sum[r] != state.sum[r];
    } else {
      again = again || (fabsf(state.max[r] * scale_log2) >= kMostForward && state.max[r] != -INFINITY);
    }
  }
  return __any_sync(~0u, again);
}

// Puts an item into the block's list of those to be made again. One lane of any of its warps calls it. `Storage`: of
// the block.
template <class Storage>
__device__ __forceinline__ void make_again(const ForwardParams& p, ItemNote& item, Storage& s) {
  if (atomicExch(&item.again, 1) == 0) p.again[item.index] = static_cast<int64_t>(atomicExch(&s.again, item.index));
}

// What up to four merges of a base tile hold of a thread's two rows: where (-1: nothing), and (greatest score, sum).
// Several are read at once: a tile that was cut into eight parts would wait for memory sixteen times.
struct Parts {
  static constexpr int kMost = 4;
  int32_t slots[kMost][2];  // of the head, which has room for fewer than 2^31 (and 64 bits each would be spilled)
  float2 softmax[kMost][2];

  // Merges from `first` on; sum 0: nothing was seen.
  __device__ __forceinline__ Parts(const ForwardParams& p, const ItemNote& item, int row0, int first) {
    const float2* of_head = p.partial_softmax + (int64_t(item.batch) * p.heads + item.head) * p.partial_rows;
#pragma unroll
    for (int n = 0; n < kMost; ++n) {
      const bool there = first + n < item.merge_count;
      const MergedRows merged(p.plan.merges[item.merge_begin + (there ? first + n : 0)], 0, item.repeat);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = row0 + 8 * r;
        slots[n][r] = there && row < item.rows ? static_cast<int32_t>(merged.slot(row)) : -1;
      }
    }
#pragma unroll
    for (int n = 0; n < kMost; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) softmax[n][r] = slots[n][r] < 0 ? make_float2(-INFINITY, 0.f) : of_head[slots[n][r]];
  }

  // What they count of a row whose greatest score is `max`.
  __device__ __forceinline__ float share(int n, int r, float max, float scale_log2) const {
    return softmax[n][r].y == 0.f ? 0.f : softmax[n][r].y * exp_below(softmax[n][r].x, max, scale_log2);
  }

  __device__ __forceinline__ void add_to(RowState& state, float scale_log2) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = state.max[r];
#pragma unroll
      for (int n = 0; n < kMost; ++n) top = softmax[n][r].y == 0.f ? top : fmaxf(top, softmax[n][r].x);
      float sum = state.sum[r] == 0.f ? 0.f : state.sum[r] * exp_below(state.max[r], top, scale_log2);
#pragma unroll
      for (int n = 0; n < kMost; ++n) sum += share(n, r, top, scale_log2);
      state.sum[r] = sum;
      state.max[r] = top;
    }
  }

  // As many numbers are on their way at a time as registers hold beside the scores: some columns of all rows and
  // merges, or all of one.
  template <class Shape, class Output>
  __device__ __forceinline__ void add_to(Output& output, const ForwardParams& p, const ItemNote& item,
                                         const float (&max)[2]) const {
    constexpr int kParts = Shape::kDim <= 64 ? kMost : 1, kRows = Shape::kDim <= 64 ? 2 : 1;
    constexpr int kPairs = Shape::kDim > 64 && Shape::kDim % 128 == 0 ? 16 : Shape::kDim % 32 == 0 ? 4 : 3;
    static_assert(Shape::kDim / 8 % kPairs == 0);
    const float* of_head = p.partial_out + 2 * (threadIdx.x % 4) +
                           (int64_t(item.batch) * p.heads + item.head) * p.partial_rows * Shape::kDim;
#pragma unroll
    for (int n0 = 0; n0 < kMost; n0 += kParts) {
#pragma unroll
      for (int r0 = 0; r0 < 2; r0 += kRows) {
        if (kRows == 1 && softmax[n0][r0].y == 0.f) continue;
        float shares[kParts][kRows];
        const float* from[kParts][kRows];
#pragma unroll
        for (int n = 0; n < kParts; ++n) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            shares[n][r] = share(n0 + n, r0 + r, max[r0 + r], p.scale_log2);
            from[n][r] = of_head + int64_t{slots[n0 + n][r0 + r]} * Shape::kDim;
          }
        }
#pragma unroll
        for (int pair0 = 0; pair0 < Shape::kDim / 8; pair0 += kPairs) {
          float2 x[kParts][kRows][kPairs];
#pragma unroll
          for (int n = 0; n < kParts; ++n)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
              for (int i = 0; i < kPairs; ++i)
                x[n][r][i] = kRows > 1 && softmax[n0 + n][r0 + r].y == 0.f
                                 ? make_float2(0.f, 0.f)
                                 : *reinterpret_cast<const float2*>(from[n][r] + 8 * (pair0 + i));
#pragma unroll
          for (int n = 0; n < kParts; ++n)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
              for (int i = 0; i < kPairs; ++i) {
                float* to = &output[4 * (pair0 + i) + 2 * (r0 + r)];
                to[0] = fmaf(x[n][r][i].x, shares[n][r], to[0]);
                to[1] = fmaf(x[n][r][i].y, shares[n][r], to[1]);
              }
        }
      }
    }
  }
};

// Where the softmax of a tile begins: nothing seen, or what partial levels saw. So merging costs no pass of its own.
__device__ __forceinline__ RowState begin_rows(const ForwardParams& p, const ItemNote& item, int row0) {
  RowState state{{-INFINITY, -INFINITY}, {0, 0}};
#pragma unroll 1
  for (int i = 0; i < item.merge_count; i += Parts::kMost) Parts(p, item, row0, i).add_to(state, p.scale_log2);
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (threadIdx.x % 4 != 0) state.sum[r] = 0;  // a row's sum is kept in four threads' shares
  return state;
}

// The output that belongs to it.
template <class Shape, class Output>
__device__ __forceinline__ void begin_output(const ForwardParams& p, const ItemNote& item, const float (&max)[2],
                                             Output& output, int row0) {
  cute::clear(output);
#pragma unroll 1
  for (int i = 0; i < item.merge_count; i += Parts::kMost)
    Parts(p, item, row0, i).template add_to<Shape>(output, p, item, max);
}

template <class Shape, class Output>
__device__ __forceinline__ void store(const ForwardParams& p, const ItemNote& item, const RowState& state,
                                      const Output& output, int row0) {
  const int column0 = 2 * (threadIdx.x % 4);
  const int64_t head = int64_t(item.batch) * p.heads + item.head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int row = row0 + 8 * r;
    const bool valid = row < item.rows;
    float max = state.max[r];
    float keep = 1;  // what the accumulated output counts in units of exp(scale * max)
    for (int i = 0; i < item.phantom_count; ++i) {
      const Phantoms ph = p.plan.phantoms[item.phantom_begin + i];
      if (row < ph.row_begin || row >= ph.row_end) continue;
      const float now = fmaxf(max, 0.f);  // a phantom's score is 0
      const float factor = exp2f((max - now) * p.scale_log2);
      sum = sum * factor + float(ph.count) * exp2f(-now * p.scale_log2);
      keep *= factor;
      max = now;
    }
    const float factor = sum == 0.f ? 0.f : keep / sum;
    if (p.partial) {
      if (!valid) continue;
      const int64_t slot = head * p.partial_rows + item.slot + row;
      if (column0 == 0) p.partial_softmax[slot] = make_float2(max, sum);
      float* to = p.partial_out + slot * Shape::kDim;
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n)
        *reinterpret_cast<float2*>(to + 8 * n + column0) =
            make_float2(output[4 * n + 2 * r] * factor, output[4 * n + 2 * r + 1] * factor);
      continue;
    }
    const int64_t at = item.row0 + row * item.stride;  // < len_q
    // -inf where nothing is seen; NaN stays NaN.
    if (valid && column0 == 0) p.lse[head * p.len_q + at] = sum == 0.f ? -INFINITY : row_lse(max, p.scale, sum);
    const int64_t to = item.batch * p.out_batch_stride + at * p.out_len_stride + item.head * p.out_head_stride;
    store_result<Shape>(p.out, to, p.float32_results, valid, p.dim, output, r, factor * p.dropout.gain * p.out_scale);
  }
}

}  // namespace longstride::engine::cuda::sm90
