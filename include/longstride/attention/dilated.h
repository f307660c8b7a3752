// LongNet's dilated attention by its own arguments.
#pragma once

#include <vector>

#include "longstride/attention.h"
#include "longstride/pattern.h"

namespace longstride {

// attention() with Pattern::dilated() of these lists, one entry a group: segment lengths in tokens, and rates >= 1.
// Throws what both throw.
inline AttentionResult dilated_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                         const std::vector<int64_t>& segment_lengths,
                                         const std::vector<int64_t>& dilation_rates, const DilatedOptions& dilated = {},
                                         const AttentionOptions& options = {}) {
  return attention(q, k, v, Pattern::dilated(segment_lengths, dilation_rates, dilated), options);
}

}  // namespace longstride
