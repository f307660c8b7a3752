// The consumer of forward kernels of which two blocks of the grid share a multiprocessor: for tiles of few columns,
// whose time is the wait for one step after the other, not what the steps compute. While one waits another goes on, so
// that nothing overlaps within a warpgroup, and there are registers for twice as many. Included by forward.cuh.
#pragma once

#include "engine/cuda/sm90/forward_products.cuh"
#include "engine/cuda/sm90/forward_shape.cuh"
#include "engine/cuda/sm90/pipeline.cuh"
#include "engine/cuda/sm90/seen_rows.cuh"
#include "engine/cuda/sm90/softmax.cuh"

namespace longstride::engine::cuda::sm90 {

// Where the softmax and the output of a tile begin: nothing seen, or what partial levels saw, one merge after the
// other. That keeps less than begin_rows() and begin_output(), and waits for memory more often.
template <class Shape, class Output>
__device__ __forceinline__ RowState begin_tile(const ForwardParams& p, const ItemNote& item, Output& output, int row0) {
  const int64_t of_head = (int64_t(item.batch) * p.heads + item.head) * p.partial_rows;
  RowState state{{-INFINITY, -INFINITY}, {0, 0}};
  cute::clear(output);
#pragma unroll 1
  for (int i = 0; i < item.merge_count; ++i) {
    const MergedRows merged(p.plan.merges[item.merge_begin + i], of_head, item.repeat);
    float2 softmax[2];
    float2 x[2][Shape::kDim / 8];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = row0 + 8 * r;
      const int64_t slot = row < item.rows ? merged.slot(row) : -1;
      softmax[r] = slot < 0 ? make_float2(-INFINITY, 0.f) : p.partial_softmax[slot];
      const float* from = p.partial_out + slot * Shape::kDim + 2 * (threadIdx.x % 4);
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n)
        x[r][n] = slot < 0 ? make_float2(0.f, 0.f) : *reinterpret_cast<const float2*>(from + 8 * n);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const bool seen = softmax[r].y != 0.f;
      const float top = seen ? fmaxf(state.max[r], softmax[r].x) : state.max[r];
      const float kept = state.sum[r] == 0.f ? 0.f : exp_below(state.max[r], top, p.scale_log2);
      const float share = seen ? softmax[r].y * exp_below(softmax[r].x, top, p.scale_log2) : 0.f;
      state.max[r] = top;
      state.sum[r] = fmaf(state.sum[r], kept, share);
#pragma unroll
      for (int n = 0; n < Shape::kDim / 8; ++n) {
        float* to = &output[4 * n + 2 * r];
        to[0] = fmaf(to[0], kept, seen ? x[r][n].x * share : 0.f);
        to[1] = fmaf(to[1], kept, seen ? x[r][n].y * share : 0.f);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (threadIdx.x % 4 != 0) state.sum[r] = 0;  // a row's sum is kept in four threads' shares
  return state;
}

// Inlined by force, as consume().
template <class Shape, bool kExact>
__device__ __forceinline__ void consume_short(const ForwardParams& p, ForwardStorage<Shape>& s) {
  // Asked for again where it is wanted: there are no registers to keep all that follows from it.
  const auto of_block = [] {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
  };
  const auto row0 = [&] {
    const int thread = of_block();
    return thread / 32 * 16 + thread % 32 / 4;
  };
  const int group = of_block() / 128;
  ForwardProducts<Shape> products(s, group, of_block() % 128);
  auto& scores = products.scores;
  int stage = 0, phase = 0, query = 0, q_phase = 0;
  for (int note = 0;; note = (note + 1) % Shape::kNotes) {
    s.q_full[query].wait(q_phase);
    ItemNote& item = s.item[note];
    if (item.stop) break;
    RowState state = begin_tile<Shape>(p, item, products.output, row0());
    for (bool last = false; !last;) {
      s.k_full[stage].wait(phase);
      last = s.block[stage].last;
      if (seen_by_rows(s.block[stage], 64 * group)) {
        cute::clear(scores);     // or the fence keeps what they were
        if constexpr (kExact) {  // or addresses that both passes have in common are kept, and spilled
          work_out_here(products.q);
          work_out_here(products.k);
        }
        products.multiply_scores(query, stage);
        cute::warpgroup_wait<0>();
        products.take_scores();
        const BlockNote b = s.block[stage];  // read again: there are no registers to keep it in
        release(s.k_empty[stage]);
        if (last) release(s.q_empty[query]);
        if (p.negate)
          for (int i = 0; i < cute::size(scores); ++i) scores[i] = -scores[i];
        if (b.masked) mask<Shape>(scores, b, row0());
        float rescale[2];
        const auto keep = [](float x, int, int, int) { return x; };
        softmax_step<Shape, kExact>(scores, state, rescale, p.scale_log2, b.weight_log2, keep);
        products.take_weights(rescale);
        s.v_full[stage].wait(phase);
        products.multiply_output(stage);
        products.finish_output(stage);
      } else {
        release(s.k_empty[stage]);
        if (last) release(s.q_empty[query]);
        s.v_full[stage].wait(phase);
      }
      release(s.v_empty[stage]);
      if (++stage == Shape::kStages) stage = 0, phase ^= 1;
    }
    if (++query == Shape::kQueries) query = 0, q_phase ^= 1;
    if constexpr (!kExact)
      if (wants_again<Shape>(state, p.scale_log2) && threadIdx.x % 32 == 0) make_again(p, item, s);
    store<Shape>(p, item, state, products.output, row0());
  }
}

}  // namespace longstride::engine::cuda::sm90
