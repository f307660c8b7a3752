// The plain formula in the case's own dtype: float32 (or float64) sums, and a rounding to the dtype after every tensor
// operation, as a framework without a fused kernel computes it. Its error against the oracle is the yardstick for
// engines.
#pragma once

#include "test/engine/cases.h"

namespace longstride::test {

// The greatest sum of absolute terms behind any element of a result: what rounding errors are relative to where terms
// cancel (a query that sees one key has dq = 0, as the difference of two numbers that need not be small).
struct TermSizes {
  double out = 0;
  double lse = 0;
  double dq = 0;
  double dk = 0;
  double dv = 0;
};

struct Peer {
  oracle::Forward forward;
  oracle::Backward backward;
  // The same where dP stays in float32, as in a fused kernel, and where only out and the results are rounded, which is
  // the least that a backward can do. In few elements roundings may cancel by luck; not in all three.
  oracle::Backward fused, least;
  TermSizes sizes;
};

Peer peer_results(const Case& c);

}  // namespace longstride::test
