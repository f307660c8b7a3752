// The forward in float32 on tensor cores: a tile of 64 queries, 16 a warp, against its runs of keys. Queries, scores
// and out stay in registers; a block of keys comes as floats while the one before is used, and is then split for all
// warps. Launched by launch.cuh.
#pragma once

#include "engine/cuda/sm80/forward.cuh"
#include "engine/cuda/sm80/split.cuh"

namespace longstride::engine::cuda::sm80 {

template <int kDim>
struct SplitForward : SplitShape<kDim> {
  static constexpr int kColumns = 32;
  static constexpr int kBlocks = kDim <= 64 ? 3 : 2;
  static constexpr int kPairs = 1;
};

template <class Shape>
struct SplitForwardStorage {
  alignas(16) float staged_k[Shape::kColumns * Shape::kDim];
  alignas(16) float staged_v[Shape::kColumns * Shape::kDim];
  Planes<Shape::kColumns, Shape::kDim> k, v;
  BlockQueue queue;
  // At the end, as in ForwardStorage.
  float most[Shape::kRows], sum[Shape::kRows], factor[Shape::kRows], other[Shape::kRows];
  int64_t slot[Shape::kRows];
};

// Of a thread's two rows: the greatest score so far, as the product left it (negated if scale < 0), and this
// thread's share of the sum of weight * exp(scale * (score - most)).
struct RowState {
  float most[2], sum[2];
};

// Scores become probabilities, dropped ones 0, and the state what it is after them. What so far is in out is multiplied
// with factor.
template <class Shape, class Places, class Scores>
__device__ __forceinline__ void softmax_step_rows(const Values& p, const ColumnBlock& b, const TilePlace& place,
                                                  const Tile& tile, const Places& of, Scores& scores, RowState& state,
                                                  float (&factor)[2]) {
  constexpr int kCount = decltype(cute::size(scores))::value;
  const float weight = weight_log2(b);
  float most[2] = {-INFINITY, -INFINITY}, sum[2] = {0.f, 0.f};
  if (b.masked) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      if (!pair(b, cute::get<0>(of(i)), cute::get<1>(of(i)))) scores(i) = -INFINITY;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) most[i % 4 / 2] = fmaxf(most[i % 4 / 2], scores(i));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 1));
    most[half] = fmaxf(most[half], __shfl_xor_sync(~0u, most[half], 2));
    most[half] = fmaxf(most[half], state.most[half]);
    factor[half] = exp_below(p, state.most[half], most[half]);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    scores(i) = exp_below(p, scores(i), most[i % 4 / 2], weight);
    sum[i % 4 / 2] += scores(i);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.most[half] = most[half];
    state.sum[half] = fmaf(state.sum[half], factor[half], sum[half]);
  }
  if (!p.dropout.seed) return;
  const DropoutSalts salts = dropout_salts(p.dropout, p.dropout.stream(place.batch, query_head(p, place)));
  uint32_t kept = 0;
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    const int row = first_row(place, tile) + int(cute::get<0>(of(i))) * place.stride;
    const int column = b.column0 + int(cute::get<1>(of(i))) * place.stride;
    kept |= uint32_t(!is_dropped(p.dropout, salts, row, column)) << i;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (!(kept >> i & 1)) scores(i) = 0.f;
}

// Scores that the parts have no number for, infinities among q and k, are summed again as they are.
template <class Shape, class Places, class Scores>
__device__ __forceinline__ void mend_scores(const Values& p, const ColumnBlock& b, const TilePlace& place,
                                            const Tile& tile, const Places& of, Scores& scores) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i) sum += scores(i);
  if (sum == sum) return;
  const float* const q = p.q.head<const float>(place.batch, query_head(p, place));
  const float* const k = p.k.head<const float>(place.batch, place.kv_head);
  const int2 seen = seen_columns(b);
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i) {
    const int row = cute::get<0>(of(i)), column = cute::get<1>(of(i));
    if (scores(i) == scores(i) || row >= tile.rows || column < seen.x || column >= seen.y) continue;
    const float* const from_q =
        q + (first_row(place, tile) - p.query_start + int64_t(row) * place.stride) * p.q.len_stride;
    const float* const from_k = k + (b.column0 + int64_t(column) * place.stride) * p.k.len_stride;
    sum = 0;
#pragma unroll 1
    for (int x = 0; x < p.dim; ++x) sum = fmaf(from_q[x], from_k[x], sum);
    scores(i) = copysignf(1.f, p.scale) * sum;
  }
}

// The thread's shares become the rows' sums, where merge_partials() and store_rows() look for them.
template <class Shape>
__device__ __forceinline__ void keep_state(RowState& state, SplitForwardStorage<Shape>& s) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (lane % 4) continue;
    s.most[row + 8 * half] = state.most[half];
    s.sum[row + 8 * half] = sum;
  }
}

template <class Shape>
__device__ __forceinline__ RowState first_state(const Values& p, const Tile& tile) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  int64_t phantoms[2] = {0, 0};
  for (int n = 0; n < tile.phantom_count; ++n) {
    const Phantoms& f = p.plan.phantoms[tile.phantom_begin + n];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (row + 8 * half >= f.row_begin && row + 8 * half < f.row_end) phantoms[half] += f.count;
  }
  RowState state;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.most[half] = phantoms[half] > 0 ? 0.f : -INFINITY;
    state.sum[half] = lane % 4 ? 0.f : static_cast<float>(phantoms[half]);
  }
  return state;
}

template <class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    split_forward_kernel(const __grid_constant__ Values p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<SplitForwardStorage<Shape>*>(memory);
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, p.group, Direction::kForward, 1, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  stage_keys<Shape>(p, place, s.queue.block[0], s.staged_k, s.staged_v);
  RowFragment q[Shape::kDim / 16];
  load_tile(p.q.head<const float>(place.batch, query_head(p, place)), p.q, first_row(place, tile) - p.query_start,
            place.stride, tile.rows, p.dim, copysignf(1.f, p.scale), q);
  RowState state = first_state<Shape>(p, tile);
  auto out = accumulator<Shape, Shape::kRows, Shape::kDim>();
  for (int n = 0; s.queue.block[n % 3].columns > 0; ++n) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();  // all warps are through with the block before
    spread_columns<Shape>(s.staged_k, s.k);
    spread_columns<Shape>(s.staged_v, s.v);
    __syncthreads();
    stage_keys<Shape>(p, place, s.queue.block[(n + 1) % 3], s.staged_k, s.staged_v);
    take_block<Shape>(p, Direction::kForward, 1, n + 2, s.queue);
    const auto of_scores = places<Shape, Shape::kRows, Shape::kColumns>();
    const ColumnBlock& b = s.queue.block[n % 3];
    float factor[2];
    RowFragment probabilities[Shape::kColumns / 16];
    {
      auto scores = multiply_rows<Shape, Rows::kQueries, Shape::kPairs>(q, s.k);
      mend_scores<Shape>(p, b, place, tile, of_scores, scores);
      add_alibi(p.alibi, query_head(p, place), first_row(place, tile), b.column0, place.stride, of_scores, scores);
      softmax_step_rows<Shape>(p, b, place, tile, of_scores, scores, state, factor);
      to_rows<Shape::kColumns>(scores, probabilities);
    }
    multiply_columns<Shape>(probabilities, s.v, out, [&](int half) { return factor[half]; });
  }
  keep_state<Shape>(state, s);
  __syncthreads();
  const auto of_out = places<Shape, Shape::kRows, Shape::kDim>();
  const int64_t head = query_head(p, place), head_of_all = int64_t(place.batch) * p.heads + head;
  if (!p.partial) merge_partials<Shape>(p, tile, place, head_of_all, of_out, out, s);
  __syncthreads();
  store_rows<Shape>(p, tile, place, head, head_of_all, first_row(place, tile), of_out, out, s);
}

}  // namespace longstride::engine::cuda::sm80
