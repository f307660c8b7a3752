// The draws of dropout as docs/dropout.md says, on the device. Used by every kernel with dropout.
#pragma once

#include <cute/tensor.hpp>

#include "core/dropout.h"
#include "engine/cuda/extras.h"

namespace longstride::engine::cuda {

// What makes words of the positions of one (batch row, query head), which are below 2^31 here: their upper halves are
// 0.
struct DropoutSalts {
  uint32_t query, key;
};

__device__ __forceinline__ DropoutSalts dropout_salts(const DropoutValues& d, uint32_t stream) {
  return {core::dropout_salt(*d.seed, stream, core::Side::kQuery, 0),
          core::dropout_salt(*d.seed, stream, core::Side::kKey, 0)};
}

__device__ __forceinline__ bool is_dropped(const DropoutValues& d, const DropoutSalts& salts, uint32_t q, uint32_t k) {
  return core::dropout_draw(core::dropout_word(salts.query, q), core::dropout_word(salts.key, k)) < d.threshold;
}

// Which of 32 pairs are kept, of the elements from `first` on of an accumulator whose row and column at 0 stand at
// positions row0 and column0. Rolled: so many draws at once have no registers.
template <class Places>
__device__ __forceinline__ uint32_t kept_pairs(const DropoutValues& d, const DropoutSalts& salts, bool transposed,
                                               int row0, int column0, int stride, const Places& of, int first) {
  constexpr int kCount = decltype(cute::size(of))::value < 32 ? decltype(cute::size(of))::value : 32;
  static_assert(decltype(cute::size(of))::value % kCount == 0);
  uint32_t kept = 0;
#pragma unroll 1
  for (int i = 0; i < kCount; ++i) {
    const uint32_t row = row0 + int(cute::get<0>(of(first + i))) * stride;
    const uint32_t column = column0 + int(cute::get<1>(of(first + i))) * stride;
    kept |= uint32_t(!is_dropped(d, salts, transposed ? column : row, transposed ? row : column)) << i;
  }
  return kept;
}

}  // namespace longstride::engine::cuda
