// The oracle as an AttentionFn: modules over it compute what the definition says, forward and backward. For float64.
#pragma once

#include "longstride/nn.h"
#include "oracle/attention.h"

namespace longstride::factory_test {

// `options` say who sees whom; shapes, lengths, scale and dropout are those of each call.
AttentionFn oracle_attention(oracle::Options options);

}  // namespace longstride::factory_test
