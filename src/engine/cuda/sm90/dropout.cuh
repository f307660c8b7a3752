// The dropout mask of a consumer's accumulator. Used by the kernels that are built with WithDropout or Extras
// (extras.h): the forward and the backward over keys draw pair by pair from words that their producer made, the others
// (one gradient, float32's backward) by draw().
#pragma once

#include <cutlass/numeric_types.h>

#include <cstdint>
#include <type_traits>

#include "engine/cuda/sm90/dropout_words.h"
#include "engine/cuda/tile/dropout.cuh"

namespace longstride::engine::cuda::sm90 {

// The salts of a stream, in a producer warp that has few registers: even lanes hold that of queries, odd ones of keys.
__device__ __forceinline__ uint32_t salt_of_lane(const DropoutValues& d, uint32_t stream) {
  return core::dropout_salt(*d.seed, stream, threadIdx.x % 2 ? core::Side::kKey : core::Side::kQuery, 0);
}
__device__ __forceinline__ uint32_t query_salt(uint32_t salt) { return __shfl_sync(~0u, salt, 0); }
__device__ __forceinline__ uint32_t key_salt(uint32_t salt) { return __shfl_sync(~0u, salt, 1); }

// The words of a block's columns, by all lanes of a producer warp, and their shares where there is room.
template <class Columns>
__device__ __forceinline__ void write_words(uint32_t salt, int column0, int stride, uint32_t (&to)[Columns::kSize]) {
#pragma unroll
  for (int i = 0; i < Columns::kColumns; i += 32) {
    const int column = i + threadIdx.x % 32;
    const uint32_t word = core::dropout_word(salt, column0 + column * stride);
    to[Columns::place(column)] = word;
    if constexpr (Columns::kWords == 2) to[Columns::place(column) + 2] = core::dropout_share(word);
  }
}

// A weight, or 0 if its draw (core::dropout_draw) is below the threshold (or NaN, of a row that is all NaN). In PTX as
// a whole: so many instructions beside the rest of the forward and the compiler unrolls no further. A predicated
// multiplication, and a change of sign below, since selections would take the unit that makes the draws.
__device__ __forceinline__ float drop_weight(uint32_t query_word, uint32_t key_word, uint32_t share, uint32_t threshold,
                                             float x) {
  asm("{\n.reg .pred dropped;\n.reg .b32 x, y;\n"
      "xor.b32 x, %1, %2;\nmul.lo.s32 x, x, %5;\nshr.u32 y, x, 15;\nxor.b32 x, x, y;\nmad.lo.s32 x, x, %6, %3;\n"
      "setp.lt.u32 dropped, x, %4;\n@dropped mul.f32 %0, %0, 0f00000000;\n}"
      : "+f"(x)
      : "r"(query_word), "r"(key_word), "r"(share), "r"(threshold), "n"(int32_t(core::kDropoutFirst)),
        "n"(int32_t(core::kDropoutLast)));
  return x;
}

// The backward wants the decision twice: a probability (>= 0) that is dropped gets the sign -, which makes it 0 as an
// operand.
__device__ __forceinline__ void mark_dropped(uint32_t drawn, uint32_t threshold, float& probability) {
  asm("{\n.reg .pred dropped;\nsetp.lt.u32 dropped, %1, %2;\n@dropped neg.f32 %0, %0;\n}"
      : "+f"(probability)
      : "r"(drawn), "r"(threshold));
}
template <class Element>
__device__ __forceinline__ uint32_t kept_operands(float low, float high) {
  uint32_t both;
  if constexpr (std::is_same_v<Element, cutlass::bfloat16_t>) {
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  } else {
    static_assert(std::is_same_v<Element, cutlass::half_t>);
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  }
  return both;
}
// P * ((kept) dp * gain - delta), in place of dp.
__device__ __forceinline__ void score_gradient(float marked, float gain, float delta, float& dp) {
  const float minus = -delta;
  asm("{\n.reg .pred dropped;\nsetp.lt.f32 dropped, %1, 0f00000000;\n@!dropped fma.rn.f32 %0, %0, %2, %3;\n"
      "@dropped mov.f32 %0, %3;\n}"
      : "+f"(dp)
      : "f"(marked), "f"(gain), "f"(minus));
  dp *= fabsf(marked);
}

// Which of a thread's pairs of one accumulator are kept, one bit each; bit 4 * n + 2 * r + c as the accumulator counts.
template <int kWidth>
struct Kept {
  uint32_t words[(kWidth / 2 + 31) / 32];
  static __device__ __forceinline__ Kept all() {
    Kept kept;
    for (uint32_t& word : kept.words) word = ~0u;
    return kept;
  }
  __device__ __forceinline__ bool at(int i) const { return words[i / 32] >> (i % 32) & 1; }
};

// Accumulator rows stand at row + {0, 8} * stride, columns at column + (8 * n + c) * stride. `rows_are_queries` false:
// the other way round (backward). Each column's word is made once and serves both rows.
template <int kWidth>
__device__ __forceinline__ Kept<kWidth> draw(const DropoutValues& d, bool rows_are_queries, int row, int column,
                                             int stride, uint32_t stream) {
  const DropoutSalts salts = dropout_salts(d, stream);
  const uint32_t of_rows = rows_are_queries ? salts.query : salts.key;
  const uint32_t of_columns = rows_are_queries ? salts.key : salts.query;
  const uint32_t rows[2] = {core::dropout_word(of_rows, row), core::dropout_word(of_rows, row + 8 * stride)};
  Kept<kWidth> kept;
#pragma unroll
  for (int word = 0; word < (kWidth / 2 + 31) / 32; ++word) {
    constexpr int kBits = kWidth / 2 < 32 ? kWidth / 2 : 32;
    uint32_t bits = 0;
    // Rolled: unrolled, the loops of all words would be a thousand instructions.
#pragma unroll 1
    for (int n = 0; n < kBits / 4; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t at_column = core::dropout_word(of_columns, column + ((word * 8 + n) * 8 + c) * stride);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const uint32_t drawn =
              rows_are_queries ? core::dropout_draw(rows[r], at_column) : core::dropout_draw(at_column, rows[r]);
          bits |= uint32_t(drawn >= d.threshold) << (4 * n + 2 * r + c);
        }
      }
    }
    kept.words[word] = bits;
  }
  return kept;
}

}  // namespace longstride::engine::cuda::sm90
