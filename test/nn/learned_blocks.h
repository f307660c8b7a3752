// What the tests of learned block patterns begin with: small options, and queries, keys and values that fit them.
#pragma once

#include "test/nn/support.h"

namespace longstride::nn_test {

inline LearnedBlocks small_blocks() {
  LearnedBlocks l;
  l.block_size = 8;
  l.density = 0.25;
  l.hidden = 16;
  l.head_dim = 8;
  l.kv_heads = 2;
  return l;
}

struct Input {
  at::Tensor q, k, v;
  explicit Input(int64_t batch, int64_t len, at::ScalarType dtype = at::kFloat)
      : q(at::randn({batch, len, 4, 8}, dtype)),
        k(at::randn({batch, len, 2, 8}, dtype)),
        v(at::randn({batch, len, 2, 8}, dtype)) {}
};

}  // namespace longstride::nn_test
