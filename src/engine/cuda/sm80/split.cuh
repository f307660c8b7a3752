// float32 on tensor cores. A float is the sum of three numbers of bfloat16, which hold its 24 bits; of the nine
// products of two such sums six count, the others being below what float32 holds of the product. The tensor cores cut
// sums off where float32 would round them, so that long sums lean towards zero: few steps follow one another on a sum,
// the small products before or beside the great ones, and such sums are added to each other on the ordinary cores.
//
// A warp has 16 rows of a tile: their fragments lie in registers or are read from shared memory, the block's columns
// lie there in three planes, one a part.
#pragma once

#include <bit>
#include <cute/tensor.hpp>

#include "engine/cuda/tile/shape.cuh"

namespace longstride::engine::cuda::sm80 {

constexpr int kParts = 3;

// The parts of two floats that lie side by side, the greatest first.
__device__ __forceinline__ void split(float x, float y, uint32_t& first, uint32_t& second, uint32_t& third) {
  const auto cut = [&](uint32_t& part) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(part) : "f"(y), "f"(x));
    x -= __uint_as_float(part << 16);
    y -= __uint_as_float(part & 0xffff0000u);
  };
  cut(first);
  cut(second);
  cut(third);
}

// 16 rows and 16 of the terms that are summed.
struct RowFragment {
  uint32_t part[kParts][4];
};
// 16 of the terms that are summed and two tiles of 8 columns.
struct ColumnFragment {
  uint32_t part[kParts][2][2];
};

// A tile of kN rows, as parts.
template <int kN, int kDim>
struct Planes {
  static constexpr int kPitch = kDim + 8;  // 16 bytes keep the banks of a matrix's rows apart
  alignas(16) uint16_t part[kParts][kN * kPitch];
};

// The same as floats, to be split by the warp that uses them: where three planes take too much of shared memory.
template <int kN, int kDim>
struct Floats {
  static constexpr int kPitch = kDim + 8;  // four rows' pairs lie in 32 banks
  alignas(16) float value[kN * kPitch];
};

__device__ __forceinline__ void read_matrices(const uint16_t* at, uint32_t& a, uint32_t& b, uint32_t& c, uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(cute::cast_smem_ptr_to_uint(at)));
}
__device__ __forceinline__ void read_transposed_matrices(const uint16_t* at, uint32_t& a, uint32_t& b, uint32_t& c,
                                                         uint32_t& d) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"(cute::cast_smem_ptr_to_uint(at)));
}

// Rows of this warp, terms from x on.
template <int kN, int kDim>
__device__ __forceinline__ RowFragment row_fragment(const Planes<kN, kDim>& from, int x) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane % 16;
  RowFragment a;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_matrices(&from.part[i][row * from.kPitch + x + lane / 16 * 8], a.part[i][0], a.part[i][1], a.part[i][2],
                  a.part[i][3]);
  return a;
}
template <int kN, int kDim>
__device__ __forceinline__ RowFragment row_fragment(const Floats<kN, kDim>& from, int x) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
  RowFragment a;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair =
        *reinterpret_cast<const float2*>(&from.value[(row + i % 2 * 8) * from.kPitch + x + i / 2 * 8 + lane % 4 * 2]);
    split(pair.x, pair.y, a.part[0][i], a.part[1][i], a.part[2][i]);
  }
  return a;
}
template <int kCount>
__device__ __forceinline__ RowFragment row_fragment(const RowFragment (&from)[kCount], int x) {
  return from[x / 16];
}

// Columns from n on, terms from x on, of a tile whose rows are the columns.
template <int kN, int kDim>
__device__ __forceinline__ ColumnFragment column_fragment(const Planes<kN, kDim>& from, int n, int x) {
  const int lane = threadIdx.x % 32;
  ColumnFragment b;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_matrices(&from.part[i][(n + lane % 8 + lane / 16 * 8) * from.kPitch + x + lane / 8 % 2 * 8], b.part[i][0][0],
                  b.part[i][0][1], b.part[i][1][0], b.part[i][1][1]);
  return b;
}
// Columns from n on, terms from x on, of a tile whose rows are the terms.
template <int kN, int kDim>
__device__ __forceinline__ ColumnFragment transposed_fragment(const Planes<kN, kDim>& from, int n, int x) {
  const int lane = threadIdx.x % 32;
  ColumnFragment b;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    read_transposed_matrices(&from.part[i][(x + lane % 16) * from.kPitch + n + lane / 16 * 8], b.part[i][0][0],
                             b.part[i][0][1], b.part[i][1][0], b.part[i][1][1]);
  return b;
}

// c(4 n) ... += a . b
template <class C>
__device__ __forceinline__ void multiply_tile(const uint32_t (&a)[4], const uint32_t (&b)[2], C& c, int n) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c(4 * n)), "+f"(c(4 * n + 1)), "+f"(c(4 * n + 2)), "+f"(c(4 * n + 3))
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Which parts are multiplied, the smallest products first. Whatever stands in the rows, a score must come out of the
// same additions, so that what the forward adds to an lse the backward takes away.
enum class Rows { kQueries, kKeys };
template <Rows kRows>
constexpr __device__ int query_part(int product) {
  constexpr int kFirst[] = {2, 0, 1, 1, 0}, kSecond[] = {0, 2, 1, 0, 1};
  return kRows == Rows::kQueries ? kFirst[product] : kSecond[product];
}
constexpr int kSmallProducts = 5;

template <Rows kRows, int kPairs, class C>
__device__ __forceinline__ void multiply_small(const RowFragment& a, const ColumnFragment (&b)[kPairs], C& c, int n) {
#pragma unroll
  for (int product = 0; product < kSmallProducts; ++product)
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i)
      multiply_tile(
          a.part[query_part<kRows>(product)],
          b[i / 2].part[query_part < kRows == Rows::kQueries ? Rows::kKeys : Rows::kQueries > (product)][i % 2], c,
          n + i);
}
template <int kPairs, class C>
__device__ __forceinline__ void multiply_great(const RowFragment& a, const ColumnFragment (&b)[kPairs], C& c, int n) {
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) multiply_tile(a.part[0], b[i / 2].part[0][i % 2], c, n + i);
}

// Products of all rows with all columns of a block, over dim; 16 * kPairs columns at a time.
template <class Shape, Rows kRows, int kPairs, class From>
__device__ __forceinline__ auto multiply_rows(const From& rows, const Planes<Shape::kColumns, Shape::kDim>& columns) {
  constexpr int kUnroll = std::is_same_v<From, Floats<Shape::kRows, Shape::kDim>> ? 2 : Shape::kDim / 16;
  auto c = accumulator<Shape, Shape::kRows, Shape::kColumns>();
#pragma unroll
  for (int n = 0; n < Shape::kColumns; n += 16 * kPairs) {
    auto great = accumulator<Shape, Shape::kRows, 16 * kPairs>();
    auto small = accumulator<Shape, Shape::kRows, 16 * kPairs>();
#pragma unroll kUnroll
    for (int x = 0; x < Shape::kDim; x += 16) {
      const RowFragment a = row_fragment(rows, x);
      ColumnFragment b[kPairs];
#pragma unroll
      for (int i = 0; i < kPairs; ++i) b[i] = column_fragment(columns, n + 16 * i, x);
      multiply_small<kRows>(a, b, small, 0);
      multiply_great(a, b, great, 0);
    }
#pragma unroll
    for (int i = 0; i < cute::size(great); ++i) c(n / 2 + i) = great(i) + small(i);
  }
  return c;
}

// Scores, or what was made of them, as the rows of the next product, the block's columns being its terms.
template <int kColumns, class Scores>
__device__ __forceinline__ void to_rows(const Scores& from, RowFragment (&to)[kColumns / 16]) {
#pragma unroll
  for (int k = 0; k < kColumns / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      split(from(8 * k + 2 * i), from(8 * k + 2 * i + 1), to[k].part[0][i], to[k].part[1][i], to[k].part[2][i]);
}

// c(4 n + i) = c(4 n + i) * factor(i / 2) + rows . columns, over the columns of a block.
template <class Shape, class C, class Factor>
__device__ __forceinline__ void multiply_columns(const RowFragment (&rows)[Shape::kColumns / 16],
                                                 const Planes<Shape::kColumns, Shape::kDim>& columns, C& c,
                                                 const Factor& factor) {
  constexpr int kSteps = Shape::kColumns / 16, kPairs = Shape::kPairs;
#pragma unroll
  for (int x = 0; x < Shape::kDim; x += 16 * kPairs) {
    ColumnFragment b[kSteps][kPairs];
    auto sum = accumulator<Shape, Shape::kRows, 16 * kPairs>();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
#pragma unroll
      for (int n = 0; n < kPairs; ++n) b[k][n] = transposed_fragment(columns, x + 16 * n, 16 * k);
      multiply_small<Rows::kQueries>(rows[k], b[k], sum, 0);
    }
#pragma unroll
    for (int k = 0; k < kSteps; ++k) multiply_great(rows[k], b[k], sum, 0);
#pragma unroll
    for (int i = 0; i < cute::size(sum); ++i) c(x / 2 + i) = fmaf(c(x / 2 + i), factor(i % 4 / 2), sum(i));
  }
}

// A thread's piece of four floats in every kAtOnce-th row.
template <class Shape>
struct Pieces {
  static constexpr int kAcross = std::bit_ceil(unsigned(Shape::kDim / 4));
  static constexpr int kAtOnce = Shape::kThreads / kAcross;
  const int row = threadIdx.x / kAcross, x = threadIdx.x % kAcross * 4;
};

// Rows position + i * stride, first <= i < end, of one head as they are: each thread stages the pieces that it spreads
// itself, so that no barrier stands between. The others, and columns beyond dim, become zero: what no pair reads enters
// no product.
template <class Shape>
__device__ __forceinline__ void stage_columns(const float* head, const Input& t, int64_t position, int64_t stride,
                                              int first, int end, int dim, float* to) {
  const Pieces<Shape> piece;
  if (piece.x >= Shape::kDim) return;
  const float* from = head + (position + piece.row * stride) * t.len_stride + piece.x;
  to += piece.row * Shape::kDim + piece.x;
  first -= piece.row;
  end = piece.x < dim ? end - piece.row : 0;
#pragma unroll
  for (int i = 0; i < Shape::kColumns; i += piece.kAtOnce) {
    const bool valid = i >= first && i < end;
    float* const at = to + i * Shape::kDim;
    if (t.wide) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(cute::cast_smem_ptr_to_uint(at)),
                   "l"(valid ? from : head), "r"(valid ? 16 : 0)
                   : "memory");
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j) at[j] = valid && piece.x + j < dim ? from[j] : 0.f;
    }
    from += piece.kAtOnce * stride * t.len_stride;
  }
}

// What was staged, split, for all warps.
template <class Shape>
__device__ __forceinline__ void spread_columns(const float* from, Planes<Shape::kColumns, Shape::kDim>& to) {
  const Pieces<Shape> piece;
  if (piece.x >= Shape::kDim) return;
#pragma unroll
  for (int i = piece.row; i < Shape::kColumns; i += piece.kAtOnce) {
    const float4 four = *reinterpret_cast<const float4*>(from + i * Shape::kDim + piece.x);
    uint2 part[kParts];
    split(four.x, four.y, part[0].x, part[1].x, part[2].x);
    split(four.z, four.w, part[0].y, part[1].y, part[2].y);
#pragma unroll
    for (int j = 0; j < kParts; ++j) *reinterpret_cast<uint2*>(&to.part[j][i * to.kPitch + piece.x]) = part[j];
  }
}

// Two floats of a row, those at or beyond dim zero.
__device__ __forceinline__ float2 pair_at(const float* row, int x, int dim) {
  return make_float2(x < dim ? row[x] : 0.f, x + 1 < dim ? row[x + 1] : 0.f);
}

// Rows of a tile, position + i * stride for i < end.
template <int kN, int kDim>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, Planes<kN, kDim>& to) {
#pragma unroll 4
  for (int n = threadIdx.x; n < kN * kDim / 2; n += blockDim.x) {
    const int i = n / (kDim / 2), x = n % (kDim / 2) * 2;
    const float2 pair =
        i < end ? pair_at(head + (position + i * stride) * t.len_stride, x, dim) : make_float2(0.f, 0.f);
    uint32_t part[kParts];
    split(pair.x, pair.y, part[0], part[1], part[2]);
#pragma unroll
    for (int j = 0; j < kParts; ++j) *reinterpret_cast<uint32_t*>(&to.part[j][i * to.kPitch + x]) = part[j];
  }
}
template <int kN, int kDim>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, Floats<kN, kDim>& to) {
#pragma unroll 4
  for (int n = threadIdx.x; n < kN * kDim / 2; n += blockDim.x) {
    const int i = n / (kDim / 2), x = n % (kDim / 2) * 2;
    *reinterpret_cast<float2*>(&to.value[i * to.kPitch + x]) =
        i < end ? pair_at(head + (position + i * stride) * t.len_stride, x, dim) : make_float2(0.f, 0.f);
  }
}
// As fragments, times sign.
template <int kCount>
__device__ __forceinline__ void load_tile(const float* head, const Input& t, int64_t position, int64_t stride, int end,
                                          int dim, float sign, RowFragment (&to)[kCount]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < 4 * kCount; ++n) {
    const int k = n / 4, i = n % 4, at = row + i % 2 * 8;
    if (i == 0) __syncwarp();  // or all loads are begun at once, for which there are no registers
    const float2 pair =
        at < end ? pair_at(head + (position + at * stride) * t.len_stride, 16 * k + i / 2 * 8 + lane % 4 * 2, dim)
                 : make_float2(0.f, 0.f);
    split(sign * pair.x, sign * pair.y, to[k].part[0][i], to[k].part[1][i], to[k].part[2][i]);
  }
}

// A block of the grid's item and its blocks of columns, of one query head after the other, two ahead of the one in use.
// All of it is read from shared memory where it is used: registers are dear.
struct BlockQueue {
  TilePlace place;
  BlockWalk walk;
  ColumnBlock block[3];  // block n in place n % 3; no columns: the end
  int member[3], next_member;
};

__device__ __forceinline__ int query_head(const Values& p, const TilePlace& place) {
  return place.kv_head * p.group + place.member;
}
__device__ __forceinline__ int first_row(const TilePlace& place, const Tile& tile) {
  return int(tile.row0) + place.shift;
}

// Block n, each in turn; two barriers later all threads see it. The warps take turns.
template <class Shape>
__device__ __forceinline__ void take_block(const Values& p, Direction direction, int members, int n,
                                           BlockQueue& queue) {
  if (threadIdx.x != n % (Shape::kThreads / 32) * 32) return;
  if (queue.walk.done()) {
    queue.block[n % 3].columns = 0;
    return;
  }
  const Tile& tile = p.plan.tiles[queue.place.tile];
  queue.block[n % 3] = queue.walk.at(tile.rows, queue.place.stride, queue.place.shift);
  queue.member[n % 3] = queue.next_member;
  queue.walk.advance();
  if (queue.walk.done() && ++queue.next_member < members)
    queue.walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, direction, Shape::kColumns);
}

// Item and blocks 0 and 1, for all threads. `group`: query heads an item.
template <class Shape>
__device__ __forceinline__ void begin_blocks(const Values& p, int group, Direction direction, int members,
                                             BlockQueue& queue) {
  if (threadIdx.x == 0) {
    queue.place = locate(p.lanes, p.lane_count, group, blockIdx.x, p.plan);
    const Tile& tile = p.plan.tiles[queue.place.tile];
    queue.walk = BlockWalk(p.plan.runs + tile.run_begin, tile.run_count, direction, Shape::kColumns);
    queue.next_member = 0;
  }
  take_block<Shape>(p, direction, members, 0, queue);
  __syncthreads();
  take_block<Shape>(p, direction, members, 1, queue);
  __syncthreads();
}

// K and V of a block as they are, for spread_columns().
template <class Shape>
__device__ __forceinline__ void stage_keys(const Values& p, const TilePlace& place, const ColumnBlock& b, float* first,
                                           float* second) {
  if (b.columns == 0) return;
  const int2 seen = seen_columns(b);
  stage_columns<Shape>(p.k.head<const float>(place.batch, place.kv_head), p.k, b.column0, place.stride, seen.x, seen.y,
                       p.dim, first);
  stage_columns<Shape>(p.v.head<const float>(place.batch, place.kv_head), p.v, b.column0, place.stride, seen.x, seen.y,
                       p.dim, second);
}

// Dims up to this run on tensor cores in float32.
constexpr int kMostSplitDim = 128;

template <int kDim_>
struct SplitShape {
  using Element = float;
  using Mma = decltype(cute::make_tiled_mma(cute::SM80_16x8x16_F32BF16BF16F32_TN{},
                                            cute::Layout<cute::Shape<cute::_4, cute::_1, cute::_1>>{}));
  static constexpr int kDim = kDim_;
  static constexpr int kThreads = 128;
  static constexpr int kRows = tile_rows(sizeof(float), kDim);
  static_assert(kRows == kThreads / 2, "16 rows a warp");
};

}  // namespace longstride::engine::cuda::sm80
