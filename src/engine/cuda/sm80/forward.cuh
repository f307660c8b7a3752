// The forward up to dim 128: a tile of queries, 16 or twice 16 a warp, against its runs of keys. Scores, probabilities
// and out stay in registers. What differs between numbers of 16 bits and floats is how operands come: Whole and Split.
// Launched by launch.cuh.
#pragma once

#include "engine/cuda/sm80/load.cuh"
#include "engine/cuda/sm80/product.cuh"
#include "engine/cuda/sm80/queue.cuh"
#include "engine/cuda/sm80/store.cuh"
#include "engine/cuda/tile/alibi.cuh"
#include "engine/cuda/tile/dropout.cuh"

namespace longstride::engine::cuda::sm80 {

// 32 queries a warp: each fragment of keys that is read from shared memory is multiplied twice, and so the tensor cores
// wait for it no longer.
template <class Element, int kDim, int kColumns>
struct ForwardShape : RowShape<Element, kDim, 4, 2, kColumns, 2> {};
template <int kDim, int kColumns>
struct ForwardShape<float, kDim, kColumns> : RowShape<float, kDim, 4, 1, kColumns, kDim <= 64 ? 3 : 2> {
  static constexpr int kRowPairs = 1, kPairs = 1;
};

// Each thread's next row of K or V, and the step from there to its one after that.
template <class Element, int kThreads>
struct NextRows {
  const Element* from[kThreads];
  int64_t step[kThreads];
};

// Queries of 16 bits are read from shared memory at every use. K and V come as they are, each while the other is used.
template <class Shape>
struct WholeOperands {
  Planes<1, Shape::kRows, Shape::kDim> q;
  Planes<1, Shape::kColumns, Shape::kDim> k, v;
  NextRows<typename Shape::Element, Shape::kThreads> next_k, next_v;
};
// Floats: K and V come while the block before is used and are then split for all warps.
template <class Shape>
struct SplitOperands {
  Staged<Shape::kColumns, Shape::kDim> staged_k, staged_v;
  Planes<3, Shape::kColumns, Shape::kDim> k, v;
};

template <class Shape>
struct ForwardStorage {
  std::conditional_t<Shape::kParts == 1, WholeOperands<Shape>, SplitOperands<Shape>> operands;
  ForwardQueue queue;
  // At the end, for merge_partials() and store_rows().
  float most[Shape::kRows], sum[Shape::kRows], factor[Shape::kRows], other[Shape::kRows];
  int64_t slot[Shape::kRows];
};

// K or V of a block, unless it is the end.
template <class Shape, class To>
__device__ __forceinline__ void stage_keys(const Values& p, const ForwardQueue& queue, const Cursor& c, const Input& t,
                                           To& to) {
  if (queue.done(c)) return;
  const TilePlace& place = queue.place;
  const ColumnBlock b = queue.block(c);
  stage_columns<Shape>(t.head<const typename Shape::Element>(place.batch, place.kv_head), t, b.column0, place.stride, b,
                       p.dim, to);
}

// K or V, a block after the other. A block that follows one that differs in its place alone comes from where that one
// ended: few instructions then stand between a barrier and the copies. What is known of that lies in shared memory:
// registers are dear. With dropout or ALiBi there are too few of them even so, and up to dim 64 nothing is gained.
template <class Shape, bool kExtras>
class KeyRows {
  static constexpr bool kFollow = !kExtras && Shape::kDim > 64;

 public:
  using Element = typename Shape::Element;
  using Place = NextRows<Element, Shape::kThreads>;
  __device__ __forceinline__ KeyRows(const Values& p, const ForwardQueue& queue, const Input& t, Place& place)
      : p_(p), queue_(queue), t_(t), place_(place) {}

  // What is read before the place where a block goes is free.
  struct Found {
    const Element* from;
    int64_t step;
  };
  __device__ __forceinline__ Found find() const {
    if constexpr (!kFollow) return {};
    return {place_.from[threadIdx.x], place_.step[threadIdx.x]};
  }

  template <class To>
  __device__ __forceinline__ void begin(const Cursor& c, const Found& found, To& to) {
    auto* const first = reinterpret_cast<Element*>(first_of(to));
    if (kFollow && c.within > 0 && t_.wide) {
      place_.from[threadIdx.x] = stage_whole<Shape, Shape::kColumns, To::kPitch>(found.from, found.step, p_.dim, first);
      return;
    }
    if (queue_.done(c)) return;
    const TilePlace& place = queue_.place;
    const ColumnBlock b = queue_.block(c);
    const int2 seen = seen_columns(b);
    const RowCopy<Shape, Shape::kColumns, To::kPitch> copy(t_.head<const Element>(place.batch, place.kv_head), t_,
                                                           b.column0, place.stride, seen.x, seen.y, p_.dim);
    copy.begin(first);
    if constexpr (!kFollow) return;
    place_.from[threadIdx.x] = copy.from + Shape::kColumns / Pieces<Shape>::kAtOnce * copy.step;
    place_.step[threadIdx.x] = copy.step;
  }
  template <class To>
  __device__ __forceinline__ void begin(To& to) {
    begin(Cursor(), Found(), to);
  }

 private:
  const Values& p_;
  const ForwardQueue& queue_;
  const Input& t_;
  Place& place_;
};

// The scores' operands as they come: begin() before the first block, keys() and values() before a product with those of
// a block, in which all warps take part.
template <class Shape, bool kExtras>
class Whole {
 public:
  __device__ __forceinline__ Whole(const Values& p, ForwardQueue& queue, WholeOperands<Shape>& s)
      : p_(p), queue_(queue), s_(s), keys_(p, queue, p.k, s.next_k), values_(p, queue, p.v, s.next_v) {}

  __device__ __forceinline__ void begin(const Tile& tile) {
    const TilePlace& place = queue_.place;
    load_tile<Shape>(p_.q.head<const typename Shape::Element>(place.batch, query_head(p_, place)), p_.q,
                     first_row(place, tile) - p_.query_start, place.stride, tile.rows, p_.dim, s_.q);
    keys_.begin(s_.k);
    if (p_.scale >= 0) return;
    await_copies();
    __syncthreads();
    for (int i = threadIdx.x; i < Shape::kRows * s_.q.kPitch; i += Shape::kThreads) s_.q.part[0][i] ^= 0x8000;
  }
  __device__ __forceinline__ void keys(const Cursor& c) {
    const auto found = values_.find();
    await_copies();
    __syncthreads();  // all warps are through with the values before
    values_.begin(c, found, s_.v);
  }
  __device__ __forceinline__ auto scores() const { return multiply_rows<Shape, Rows::kQueries>(s_.q, s_.k); }
  __device__ __forceinline__ void values(const Cursor& c) {
    const Cursor next = queue_.after(c);
    const auto found = keys_.find();
    await_copies();
    __syncthreads();  // all warps are through with the keys
    keys_.begin(next, found, s_.k);
  }

 private:
  const Values& p_;
  ForwardQueue& queue_;
  WholeOperands<Shape>& s_;
  KeyRows<Shape, kExtras> keys_, values_;
};

template <class Shape>
class Split {
 public:
  __device__ __forceinline__ Split(const Values& p, ForwardQueue& queue, SplitOperands<Shape>& s)
      : p_(p), queue_(queue), s_(s) {}

  __device__ __forceinline__ void begin(const Tile& tile) {
    const TilePlace& place = queue_.place;
    stage(Cursor());
    load_tile<Shape>(p_.q.head<const float>(place.batch, query_head(p_, place)), p_.q,
                     first_row(place, tile) - p_.query_start, place.stride, tile.rows, p_.dim, copysignf(1.f, p_.scale),
                     q_);
  }
  __device__ __forceinline__ void keys(const Cursor& c) {
    await_copies();
    __syncthreads();  // all warps are through with the block before
    spread_columns<Shape>(s_.staged_k, s_.k);
    spread_columns<Shape>(s_.staged_v, s_.v);
    __syncthreads();
    stage(queue_.after(c));
  }
  __device__ __forceinline__ auto scores() const { return multiply_rows<Shape, Rows::kQueries>(q_, s_.k); }
  __device__ __forceinline__ void values(const Cursor&) {}

 private:
  __device__ __forceinline__ void stage(const Cursor& c) {
    stage_keys<Shape>(p_, queue_, c, p_.k, s_.staged_k);
    stage_keys<Shape>(p_, queue_, c, p_.v, s_.staged_v);
  }

  const Values& p_;
  ForwardQueue& queue_;
  SplitOperands<Shape>& s_;
  RowFragment<3> q_[Shape::kDim / 16];
};

// Of a thread's rows: the greatest score so far, as the product left it (negated if scale < 0), and this thread's share
// of the sum of weight * exp(scale * (score - most)).
template <class Shape>
struct RowState {
  float most[kThreadRows<Shape>], sum[kThreadRows<Shape>];
};

// Below this greatest exponent of a row, positive or negative, what one multiply-add rounds off is nothing.
constexpr float kMostRoundedExponent = 256;

// Scores of pairs that are none.
template <class Shape, class Places, class Scores>
__device__ __forceinline__ void mask_scores(const ColumnBlock& b, const Places& of, Scores& scores) {
  if (!b.masked) return;
  int2 seen[kThreadRows<Shape>];  // columns [x, y)
#pragma unroll
  for (int i = 0; i < kThreadRows<Shape>; ++i) {
    const int row = row_of_thread<Shape>(i);
    const bool within = row >= (b.rows & 0xffff) && row < b.rows >> 16;
    seen[i] = make_int2(row + b.diagonals.begin(), within ? min(b.columns, row + b.diagonals.end()) : -(1 << 30));
  }
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i) {
    const int column = cute::get<1>(of(i));
    const int2 range = seen[row_of_element<Shape>(i)];
    if (column < range.x || column >= range.y) scores(i) = -INFINITY;
  }
}

// Scores become weight * exp(scale * (score - most)) by one multiply-add each while all of a warp's rows are small:
// what that rounds off is the same for a row's block, and its sum knows it too.
template <class Shape, class Scores>
__device__ __forceinline__ void exponentiate_rows(const Values& p, const float (&most)[kThreadRows<Shape>],
                                                  float weight, Scores& scores) {
  constexpr int kRows = kThreadRows<Shape>;
  float base[kRows];
  bool small = true;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    const float product = most[row] == -INFINITY ? 0.f : most[row] * p.scale_log2;
    small = small && fabsf(product) < kMostRoundedExponent;
    base[row] = weight - product;
  }
  if (!__all_sync(~0u, small)) {
#pragma unroll
    for (int i = 0; i < cute::size(scores); ++i)
      scores(i) -= most[row_of_element<Shape>(i)] == -INFINITY ? 0.f : most[row_of_element<Shape>(i)];
#pragma unroll
    for (int row = 0; row < kRows; ++row) base[row] = weight;
  }
#pragma unroll
  for (int i = 0; i < cute::size(scores); ++i)
    scores(i) = exp2_unit(fmaf(scores(i), p.scale_log2, base[row_of_element<Shape>(i)]));
}

// Scores become probabilities, dropped ones 0, and the state what it is after them. What so far is in out is multiplied
// with factor.
template <class Shape, bool kExtras, class Places, class Scores>
__device__ __forceinline__ void softmax_step_rows(const Values& p, const ColumnBlock& b, const TilePlace& place,
                                                  const Tile& tile, const Places& of, Scores& scores,
                                                  RowState<Shape>& state, Factors<Shape>& factor) {
  constexpr int kCount = decltype(cute::size(scores))::value, kRows = kThreadRows<Shape>;
  const float weight = weight_log2(b);
  float most[kRows], sum[kRows];
  mask_scores<Shape>(b, of, scores);
#pragma unroll
  for (int row = 0; row < kRows; ++row) most[row] = -INFINITY, sum[row] = 0.f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) most[row_of_element<Shape>(i)] = fmaxf(most[row_of_element<Shape>(i)], scores(i));
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    most[row] = fmaxf(most[row], __shfl_xor_sync(~0u, most[row], 1));
    most[row] = fmaxf(most[row], __shfl_xor_sync(~0u, most[row], 2));
    most[row] = fmaxf(most[row], state.most[row]);
    factor.of_row[row] = exp_below(p, state.most[row], most[row]);
  }
  constexpr bool kAtOnce = !kExtras && Shape::kParts == 1;
  if constexpr (kAtOnce) exponentiate_rows<Shape>(p, most, weight, scores);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (!kAtOnce) scores(i) = exp_below(p, scores(i), most[row_of_element<Shape>(i)], weight);
    sum[row_of_element<Shape>(i)] += scores(i);
  }
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    state.most[row] = most[row];
    state.sum[row] = fmaf(state.sum[row], factor.of_row[row], sum[row]);
  }
  if (!kExtras || !p.dropout.seed) return;
  const DropoutSalts salts = dropout_salts(p.dropout, p.dropout.stream(place.batch, query_head(p, place)));
#pragma unroll
  for (int first = 0; first < kCount; first += 32) {
    const uint32_t kept =
        kept_pairs(p.dropout, salts, false, first_row(place, tile), b.column0, place.stride, of, first);
#pragma unroll
    for (int i = first; i < first + 32 && i < kCount; ++i)
      if (!(kept >> i % 32 & 1)) scores(i) = 0.f;
  }
}

// Scores that the parts of floats have no number for, infinities among q and k, are summed again as they are.
template <class Shape, class Places, class Scores>
__device__ __forceinline__ void mend_scores(const Values& p, const ColumnBlock& b, const TilePlace& place,
                                            const Tile& tile, const Places& of, Scores& scores) {
  if constexpr (Shape::kParts == 1) return;
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
__device__ __forceinline__ void keep_state(const RowState<Shape>& state, ForwardStorage<Shape>& s) {
#pragma unroll
  for (int i = 0; i < kThreadRows<Shape>; ++i) {
    float sum = state.sum[i];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (threadIdx.x % 4) continue;
    s.most[row_of_thread<Shape>(i)] = state.most[i];
    s.sum[row_of_thread<Shape>(i)] = sum;
  }
}

template <class Shape>
__device__ __forceinline__ RowState<Shape> first_state(const Values& p, const Tile& tile) {
  RowState<Shape> state;
#pragma unroll
  for (int i = 0; i < kThreadRows<Shape>; ++i) {
    const int row = row_of_thread<Shape>(i);
    int64_t phantoms = 0;
    for (int n = 0; n < tile.phantom_count; ++n) {
      const Phantoms& f = p.plan.phantoms[tile.phantom_begin + n];
      if (row >= f.row_begin && row < f.row_end) phantoms += f.count;
    }
    state.most[i] = phantoms > 0 ? 0.f : -INFINITY;
    state.sum[i] = threadIdx.x % 4 ? 0.f : static_cast<float>(phantoms);
  }
  return state;
}

// kExtras: calls with dropout or ALiBi too. Without them what they need takes registers.
template <class Shape, bool kExtras>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) forward_kernel(const __grid_constant__ Values p) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<ForwardStorage<Shape>*>(memory);
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, p.group, Direction::kForward, 1, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  std::conditional_t<Shape::kParts == 1, Whole<Shape, kExtras>, Split<Shape>> operands(p, s.queue, s.operands);
  operands.begin(tile);
  RowState<Shape> state = first_state<Shape>(p, tile);
  auto out = accumulator<Shape, Shape::kRows, Shape::kDim>();
  for (Cursor c; !s.queue.done(c); c = s.queue.after(c)) {
    operands.keys(c);
    take_ahead<Shape>(p, Direction::kForward, 1, c, s.queue);
    const auto of_scores = places<Shape, Shape::kRows, Shape::kColumns>();
    Factors<Shape> factor;
    ColumnTerms<Shape> probabilities;
    {
      auto scores = operands.scores();
      operands.values(c);
      const ColumnBlock b = s.queue.block(c);
      mend_scores<Shape>(p, b, place, tile, of_scores, scores);
      if constexpr (kExtras)
        adjust_scores(p, query_head(p, place), first_row(place, tile), b.column0, place.stride, of_scores, scores);
      softmax_step_rows<Shape, kExtras>(p, b, place, tile, of_scores, scores, state, factor);
      to_rows<Shape>(scores, probabilities);
    }
    multiply_columns<Shape>(probabilities, s.operands.v, out, factor);
  }
  await_copies();
  keep_state<Shape>(state, s);
  __syncthreads();
  const auto of_out = places<Shape, Shape::kRows, Shape::kDim>();
  const int64_t head = query_head(p, place), head_of_all = int64_t(place.batch) * p.heads + head;
  if (!p.partial) merge_partials<Shape>(p, tile, place, head_of_all, of_out, out, s);
  __syncthreads();
  store_rows<Shape>(p, tile, place, head, head_of_all, first_row(place, tile), of_out, out, s);
}

}  // namespace longstride::engine::cuda::sm80
