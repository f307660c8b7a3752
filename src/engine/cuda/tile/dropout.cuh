// The draws of dropout as docs/dropout.md says, on the device. Used by every kernel with dropout.
#pragma once

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

}  // namespace longstride::engine::cuda
