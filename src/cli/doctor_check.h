// A short self-check of this build on this machine: attention() against the dense formula. Called by doctor.
#pragma once

#include <string>
#include <vector>

namespace longstride::cli {

struct CheckResult {
  std::string dtype;
  std::string engine;     // that computed it; empty if none did
  double out_error = 0;   // largest |ours - formula| over out and lse, of the forward
  double grad_error = 0;  // over dq, dk, dv; gradients are about 1 in size
  double allowed = 0;     // for either
  std::string fault;      // empty: fine; else what is wrong
};

// One result for each of float32, bfloat16, float16, float64. Takes well under a second.
std::vector<CheckResult> check_attention();

}  // namespace longstride::cli
