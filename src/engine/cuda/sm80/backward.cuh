// The backward of 16 bits up to dim 128 in one pass: a tile of keys against its runs of queries, five products a pair.
// dK and dV stay in registers, dQ is added to a float32 buffer, in no order. Launched by backward_launch.cuh.
#pragma once

#include "engine/cuda/sm80/load.cuh"
#include "engine/cuda/sm80/product.cuh"
#include "engine/cuda/sm80/queue.cuh"
#include "engine/cuda/sm80/store.cuh"
#include "engine/cuda/tile/differentiate.cuh"

namespace longstride::engine::cuda::sm80 {

// A block of 64 queries at a time. A warp has 32 keys and, of their dK and dV, at most 64 columns: above dim 64 two
// warps share keys, and have each half of the queries' scores and half of the columns; up to dim 64 a warp has all of
// them, 32 queries after the other 32.
template <class Element, int kDim>
struct BackwardShape : RowShape<Element, kDim, 4, 2, 64, kDim <= 64 ? 2 : 1, kDim <= 64 ? 1 : 2> {
  static constexpr int kTurns = kDim <= 64 ? 2 : 1;
  // Calls without dropout and ALiBi have a kernel of their own; up to dim 64 it is slower than one for all.
  static constexpr bool kExtrasApart = kDim > 64;
  // With one block of the grid on a multiprocessor its warps must not all add to dQ at one time: those of one side
  // multiply for dK meanwhile, and so Q has to stay while the next one comes.
  static constexpr int kQueryBlocks = kDim <= 64 ? 1 : 2;
  using Turn = RowShape<Element, kDim, 4, 2, 64 / kTurns, 1, kDim <= 64 ? 1 : 2>;
  // The warps share out dQ^T of a block: each has kDimTiles tiles of 16 columns and kQueryTiles of 8 queries.
  static constexpr int kDimTiles = kDim / 16 % 4 == 0 ? 2 : kDim == 96 ? 3 : kDim / 16;
  static constexpr int kQueryTiles = kDim / 16 * 8 / (BackwardShape::kThreads / 32) / kDimTiles;
};

// dQ is summed with a row's columns in another order: those of a query that a thread has lie side by side, 4 of 32 or 2
// of 16, so that Hopper adds them at once and a warp whole lines.
template <class Shape>
constexpr int kAddedColumns = Shape::kDimTiles == 2 ? 4 : 2;
template <class Shape>
constexpr __device__ int place_of_sum(int x) {
  constexpr int kAdded = kAddedColumns<Shape>;
  return x / (8 * kAdded) * 8 * kAdded + x % 8 * kAdded + x % (8 * kAdded) / 8;
}

__device__ __forceinline__ void add_to_sums(float* to, const float (&x)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(x[0]), "f"(x[1]) : "memory");
#else
  for (int i = 0; i < 2; ++i) atomicAdd(to + i, x[i]);
#endif
}
__device__ __forceinline__ void add_to_sums(float* to, const float (&x)[4]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
#else
  for (int i = 0; i < 4; ++i) atomicAdd(to + i, x[i]);
#endif
}

template <class Shape>
struct BackwardStorage {
  using Element = typename Shape::Element;
  using Turn = typename Shape::Turn;
  struct None {};
  Planes<1, Shape::kRows, Shape::kDim> keys, values;
  Planes<1, Turn::kColumns, Shape::kDim> queries[Shape::kQueryBlocks][Shape::kTurns], d_out[Shape::kTurns];
  Planes<1, Shape::kRows, Shape::kColumns> ds;
  // P for the warp of the other side.
  std::conditional_t<Shape::kSides == 1, None, Planes<1, Shape::kRows, Shape::kColumns>> probabilities;
  float2 query[Shape::kColumns];  // (lse, delta)
  int64_t slot[Shape::kRows];
  BlockQueue queue;
  // Where the block before came from, for each thread.
  struct Last {
    const Element *queries[Shape::kThreads], *d_out[Shape::kThreads];
    const float2* query[Shape::kThreads];
  };
  std::conditional_t<Shape::kExtrasApart, Last, None> last;
};

// This warp's P or dS to where other warps read it, a block's columns from `first` on.
template <class Shape, int kColumns>
__device__ __forceinline__ void keep_terms(const ColumnTerms<Shape>& rows, int first,
                                           Planes<1, Shape::kRows, kColumns>& to) {
  const int column = first + side_of_warp<Shape>() * 8 + threadIdx.x % 4 * 2;
#pragma unroll
  for (int k = 0; k < Shape::kColumns / Shape::kSides / 16; ++k)
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row_of_thread<Shape>(2 * m + i % 2);
        *reinterpret_cast<uint32_t*>(&to.part[0][row * to.kPitch + column + (2 * k + i / 2) * 8 * Shape::kSides]) =
            rows[k * Shape::kRowTiles + m].part[0][i];
      }
}

// (row, column) of the elements of a turn's scores, in the block.
template <class Shape>
__device__ __forceinline__ auto places_of_turn(int turn) {
  using namespace cute;
  typename Shape::Mma mma;
  const auto all = make_identity_tensor(cute::Shape<Int<Shape::kRows>, Int<Shape::kColumns>>{});
  return mma.get_slice(threadIdx.x)
      .partition_C(local_tile(all, cute::Shape<Int<Shape::kRows>, Int<Shape::Turn::kColumns>>{}, make_coord(0, turn)));
}

// The warps that share keys have kept what they did.
template <class Shape>
__device__ __forceinline__ void meet_other_side() {
  if constexpr (Shape::kSides == 1) return;
  asm volatile("bar.sync %0, %1;" ::"r"(1 + row_warp<Shape>()), "n"(32 * Shape::kSides) : "memory");
}

// c += rows . columns over a block of queries, of which the other side's terms lie in `others`.
template <class Shape, class Others, class C>
__device__ __forceinline__ void add_columns(const ColumnTerms<Shape>& rows, const Others& others,
                                            const Planes<1, Shape::kColumns, Shape::kDim>& columns, C& c) {
  constexpr int kSides = Shape::kSides, kRowTiles = Shape::kRowTiles;
  const int side = side_of_warp<Shape>();
#pragma unroll
  for (int k = 0; k < Shape::kColumns / 16; ++k) {
    const int of_terms = k % kSides == 0 ? side : 1 - side, first = k / kSides * 16 * kSides;
    RowFragment<1> a[kRowTiles];
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
      if constexpr (kSides == 1) {
        a[m] = rows[k * kRowTiles + m];
      } else {
        a[m] = k % kSides == 0 ? rows[k / kSides * kRowTiles + m]
                               : row_fragment<Shape, kSides>(others, first, m, of_terms);
      }
    }
#pragma unroll
    for (int x = 0; x < Shape::kDim / kSides; x += 16) {
      const ColumnFragment<1> b = transposed_fragment<kSides>(columns, x * kSides, first, side, of_terms);
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int m = 0; m < kRowTiles; ++m)
          multiply_tile<Shape>(a[m].part[0], b.part[0][i], c, m + kRowTiles * (x / 8 + i));
    }
  }
}

// A block's dQ^T = K^T dS, this warp's share of it, added to the buffer: what a warp adds at once are eight columns of
// four queries, 32 bytes each.
template <class Shape>
__device__ __forceinline__ void add_queries(const Values& p, const TilePlace& place, const ColumnBlock& b, int head,
                                            const Planes<1, Shape::kRows, Shape::kDim>& keys,
                                            const Planes<1, Shape::kRows, Shape::kColumns>& ds) {
  constexpr int kDimTiles = Shape::kDimTiles, kQueryTiles = Shape::kQueryTiles;
  constexpr int kAcross = Shape::kDim / 16 / kDimTiles, kAdded = kAddedColumns<Shape>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int dim0 = warp % kAcross * 16 * kDimTiles, query0 = warp / kAcross * 8 * kQueryTiles;
  auto sum = cute::make_tensor<float>(cute::Shape<cute::Int<4 * kDimTiles * kQueryTiles>>{});
  cute::clear(sum);
#pragma unroll
  for (int x = 0; x < Shape::kRows; x += 16) {
    ColumnFragment<1> columns[kQueryTiles / 2];
#pragma unroll
    for (int n = 0; n < kQueryTiles / 2; ++n) columns[n] = transposed_fragment(ds, query0 + 16 * n, x);
#pragma unroll
    for (int m = 0; m < kDimTiles; ++m) {
      uint32_t a[4];
      read_transposed_matrices(
          &keys.part[0][(x + lane / 16 * 8 + lane % 8) * keys.kPitch + dim0 + 16 * m + lane / 8 % 2 * 8], a[0], a[1],
          a[2], a[3]);
#pragma unroll
      for (int n = 0; n < kQueryTiles; ++n)
        multiply_tile<Shape>(a, columns[n / 2].part[0][n % 2], sum, m + kDimTiles * n);
    }
  }
  // A row's address is made once for its columns, and in whole blocks no row is asked about.
  const int64_t step = int64_t(place.stride) * Shape::kDim;
  float* const first = p.query_sums +
                       ((int64_t(place.batch) * p.heads + head) * p.len_q + b.column0 - p.query_start) * Shape::kDim +
                       (query0 + lane % 4 * 2) * step + dim0 + lane / 4 * kAdded;
  const auto add = [&](int n, int i) {
    float* const to = first + (8 * n + i) * step;
#pragma unroll
    for (int m = 0; m < kDimTiles; m += kAdded / 2) {
      float added[kAdded];
#pragma unroll
      for (int j = 0; j < kAdded; ++j) added[j] = sum(4 * (m + j / 2 + kDimTiles * n) + j % 2 * 2 + i);
      add_to_sums(to + 16 * m, added);
    }
  };
  const int rows = b.columns - query0 - lane % 4 * 2;
  if (b.columns == Shape::kColumns) {
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n) add(n, 0), add(n, 1);
  } else {
#pragma unroll
    for (int n = 0; n < kQueryTiles; ++n) {
      if (8 * n < rows) add(n, 0);
      if (8 * n + 1 < rows) add(n, 1);
    }
  }
}

// Zeroes the keys that no query of the tile sees: 0 of dS times NaN would enter dQ.
template <class Shape>
__device__ __forceinline__ void zero_unseen(const Values& p, const TilePlace& place, const Tile& tile,
                                            Planes<1, Shape::kRows, Shape::kDim>& keys) {
  if (!p.plan.ragged[place.tile]) return;
  await_copies();
  __syncthreads();
#pragma unroll 1
  for (int row = threadIdx.x; row < tile.rows; row += Shape::kThreads) {
    bool seen = false;
#pragma unroll 1
    for (uint32_t i = 0; i < tile.run_count; ++i) seen = seen || seen_by(p.plan.runs[tile.run_begin + i], row);
#pragma unroll 1
    for (int x = 0; !seen && x < Shape::kDim; ++x) keys.part[0][row * keys.kPitch + x] = 0;
  }
}

// Q and dO of a block, and of its queries (lse, delta): found before the place where they go is free, so that what
// follows the barrier is the copies alone.
template <class Shape>
struct QueryCopy {
  using Rows = RowCopy<Shape, Shape::kColumns, Planes<1, Shape::kColumns, Shape::kDim>::kPitch>;
  Rows queries, d_out;
  const float2* info;
  int columns;

  static __device__ __forceinline__ Rows rows(const Values& p, const TilePlace& place, const ColumnBlock& b, int head,
                                              const Input& t) {
    const int2 seen = seen_columns(b);
    return Rows(t.head<const typename Shape::Element>(place.batch, head), t, b.column0 - p.query_start, place.stride,
                seen.x, seen.y, p.dim);
  }
  __device__ __forceinline__ QueryCopy(const Values& p, const TilePlace& place, const ColumnBlock& b, int head)
      : queries(rows(p, place, b, head, p.q)),
        d_out(rows(p, place, b, head, p.d_out)),
        info(p.rows + (int64_t(place.batch) * p.heads + head) * p.len_q + b.column0 - p.query_start +
             int64_t(threadIdx.x) * place.stride),
        columns(b.columns) {}
  // Those of a block that follows one that differs in its place alone: few instructions.
  __device__ __forceinline__ QueryCopy(const Values& p, const BackwardStorage<Shape>& s)
      : queries(s.last.queries[threadIdx.x] + s.queue.step * p.q.len_stride, p.q, s.queue.place.stride, p.dim),
        d_out(s.last.d_out[threadIdx.x] + s.queue.step * p.d_out.len_stride, p.d_out, s.queue.place.stride, p.dim),
        info(s.last.query[threadIdx.x] + s.queue.step),
        columns(Shape::kColumns) {}

  __device__ __forceinline__ void keep_place(BackwardStorage<Shape>& s) const {
    s.last.queries[threadIdx.x] = queries.from;
    s.last.d_out[threadIdx.x] = d_out.from;
    s.last.query[threadIdx.x] = info;
  }
  __device__ __forceinline__ void begin_queries(BackwardStorage<Shape>& s, const Cursor& c) const {
    queries.begin(reinterpret_cast<typename Shape::Element*>(first_of(s.queries[c.before % Shape::kQueryBlocks][0])));
  }
  __device__ __forceinline__ void begin_d_out(BackwardStorage<Shape>& s) const {
    d_out.begin(reinterpret_cast<typename Shape::Element*>(first_of(s.d_out[0])));
    const int i = threadIdx.x;
    if (i < columns) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(cute::cast_smem_ptr_to_uint(s.query + i)), "l"(info)
                   : "memory");
    } else if (i < Shape::kColumns) {
      s.query[i] = make_float2(INFINITY, 0.f);
    }
  }
};

// kExtras: calls with dropout or ALiBi too. Without them what they need takes registers.
template <class Shape, bool kExtras>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) backward_kernel(const __grid_constant__ Values p) {
  using Element = typename Shape::Element;
  using Turn = typename Shape::Turn;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& s = *reinterpret_cast<BackwardStorage<Shape>*>(memory);
  const TilePlace& place = s.queue.place;
  begin_blocks<Shape>(p, 1, Direction::kTransposed, p.group, s.queue);
  const Tile& tile = p.plan.tiles[place.tile];
  const auto head_of = [&](const Cursor& c) { return place.kv_head * p.group + s.queue.member[c.entry % 3]; };
  const auto copy_of = [&](const Cursor& c) {
    const auto found = [&] { return QueryCopy<Shape>(p, place, s.queue.block(c), head_of(c)); };
    if constexpr (kExtras) {
      return found();
    } else {
      const auto copy = c.within > 0 ? QueryCopy<Shape>(p, s) : found();
      copy.keep_place(s);
      return copy;
    }
  };
  if (!s.queue.done(Cursor())) {
    const auto copy = copy_of(Cursor());
    copy.begin_queries(s, Cursor());
    copy.begin_d_out(s);
  }
  load_tile<Shape>(p.k.head<const Element>(place.batch, place.kv_head), p.k, first_row(place, tile), place.stride,
                   tile.rows, p.dim, s.keys);
  load_tile<Shape>(p.v.head<const Element>(place.batch, place.kv_head), p.v, first_row(place, tile), place.stride,
                   tile.rows, p.dim, s.values);
  zero_unseen<Shape>(p, place, tile, s.keys);
  auto dk = accumulator<Shape, Shape::kRows, Shape::kDim>();
  auto dv = accumulator<Shape, Shape::kRows, Shape::kDim>();
  const bool exact = *p.exact != 0;
  for (Cursor c; !s.queue.done(c);) {
    await_copies();
    __syncthreads();  // the block has come for all warps, and all are through with dS of the one before
    take_ahead<Shape>(p, Direction::kTransposed, p.group, c, s.queue);
    auto& queries = s.queries[c.before % Shape::kQueryBlocks];
    ColumnTerms<Turn> ds;
#pragma unroll 1
    for (int turn = 0; turn < Shape::kTurns; ++turn) {
      ColumnTerms<Turn> probabilities;
      {
        auto scores = multiply_rows<Turn, Rows::kKeys>(s.keys, queries[turn]);
        auto dp = multiply_rows<Turn, Rows::kKeys>(s.values, s.d_out[turn]);
        differentiate<Turn, kExtras>(
            p, s.queue.block(c), place, first_row(place, tile), head_of(c), true, exact,
            [&](int, int column) { return s.query[column]; }, places_of_turn<Shape>(turn), scores, dp);
        to_rows<Turn>(scores, probabilities);
        to_rows<Turn>(dp, ds);
      }
      keep_terms<Turn>(ds, turn * Turn::kColumns, s.ds);
      if constexpr (Shape::kSides > 1) keep_terms<Turn>(probabilities, 0, s.probabilities);
      meet_other_side<Turn>();
      add_columns<Turn>(probabilities, s.probabilities, s.d_out[turn], dv);
      if constexpr (Shape::kSides == 1) add_columns<Turn>(ds, s.ds, queries[turn], dk);
    }
    const ColumnBlock b = s.queue.block(c);
    const int head = head_of(c);
    const Cursor next = s.queue.after(c);
    if (s.queue.done(next)) {
      __syncthreads();
    } else {
      const auto copy = copy_of(next);
      if constexpr (Shape::kQueryBlocks > 1) copy.begin_queries(s, next);
      __syncthreads();  // dS of all warps is there, and all are through with dO and, if it has one place, with Q
      if constexpr (Shape::kQueryBlocks == 1) copy.begin_queries(s, next);
      copy.begin_d_out(s);
    }
    if constexpr (Shape::kSides == 1) {
      add_queries<Shape>(p, place, b, head, s.keys, s.ds);
    } else {
#pragma unroll 1
      for (int step = 0; step < 2; ++step) {
        if (step == side_of_warp<Shape>()) {
          add_columns<Turn>(ds, s.ds, queries[0], dk);
        } else {
          add_queries<Shape>(p, place, b, head, s.keys, s.ds);
        }
      }
    }
    c = next;
  }
  await_copies();
  const int64_t head_of_all = int64_t(place.batch) * p.kv_heads + place.kv_head;
  const auto of = places<Shape, Shape::kRows, Shape::kDim>();
  store_gradient<Shape>(p, tile, place, head_of_all, of, dk, p.partial_a, p.dk, place.kv_head, first_row(place, tile),
                        p.result_scale, s);
  store_gradient<Shape>(p, tile, place, head_of_all, of, dv, p.partial_b, p.dv, place.kv_head, first_row(place, tile),
                        p.out_scale * p.dropout.gain, s);
}

// dQ as it was summed to where it belongs, eight columns a thread.
template <class Shape>
__global__ void __launch_bounds__(256) store_queries_kernel(const Values p, int64_t count) {
  using Element = typename Shape::Element;
  constexpr int kAcross = Shape::kDim / 8;
  const int64_t piece = int64_t(blockIdx.x) * 256 + threadIdx.x, row = piece / kAcross;
  const int x = static_cast<int>(piece % kAcross) * 8;
  if (row >= count || x >= p.dim) return;
  const int64_t i = row % p.len_q, h = row / p.len_q % p.heads, b = row / p.len_q / p.heads;
  float sum[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) sum[n] = p.query_sums[row * Shape::kDim + place_of_sum<Shape>(x + n)];
  const int64_t at = i * p.dq.len_stride + x;
  if (p.dq.wide && !p.float32_results) {
    alignas(16) Element narrow[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) narrow[n] = Element(sum[n] * p.result_scale);
    *reinterpret_cast<uint4*>(p.dq.head<Element>(b, h) + at) = *reinterpret_cast<const uint4*>(narrow);
    return;
  }
#pragma unroll
  for (int n = 0; n < 8; ++n)
    if (x + n < p.dim) store_element<Element>(p, p.dq, b, h, at + n, sum[n] * p.result_scale);
}

}  // namespace longstride::engine::cuda::sm80
