// The plain formula in the case's own dtype: float32 (or float64) sums, and a rounding to the dtype after every tensor
// operation, as a framework without a fused kernel computes it. Its error against the oracle is the yardstick for
// engines.
#pragma once

#include "test/engine/cases.h"

namespace longstride::test {

struct Peer {
  oracle::Forward forward;
  oracle::Backward backward;
};

Peer peer_results(const Case& c);

}  // namespace longstride::test
