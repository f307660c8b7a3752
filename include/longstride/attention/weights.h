// The attention probabilities themselves, for looking at: dense for short sequences, or the active blocks of a block
// pattern. Computed in torch's operators, so differentiable in q and k; no engine keeps them.
#pragma once

#include <ATen/core/Tensor.h>

#include "longstride/attention.h"
#include "longstride/pattern.h"

namespace longstride {

// P(q, k) = m e^(scale q.k - slope |q - k| - lse) for every pair, [batch, heads, len_q, len_k], dtype of lse; 0 where
// nothing is seen. The weights of a row add up to 1, or the row sees nothing. q and k as in attention(). Of the options
// dropout and gates are refused, and so is zero_keys padding, whose phantoms have no column. Throws Error beyond 2^26
// weights: then look at the active blocks.
at::Tensor attention_weights(const at::Tensor& q, const at::Tensor& k, const Pattern& pattern,
                             const AttentionOptions& options = {});

struct BlockWeights {
  at::Tensor blocks;   // int64 [n, 4]: batch row, query head, query block, key block, in this order ascending
  at::Tensor weights;  // [n, block_size, block_size]: P of the block's pairs; 0 where they are hidden or beyond the end
};

// The same for the active blocks of a pattern that is one block pattern and nothing else, with options at most `scale`
// and `alibi_slopes`:
// as much memory as the density says.
BlockWeights block_attention_weights(const at::Tensor& q, const at::Tensor& k, const Pattern& pattern,
                                     const AttentionOptions& options = {});

}  // namespace longstride
