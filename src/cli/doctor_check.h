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
  std::string refusal;    // of an engine that was asked for: why it does not take the dtype; no fault
};

// One result for each of float32, bfloat16, float16, float64, of the engine of that name on its device, or of each
// call's own choice on the CPU if it is "". Takes well under a second. Throws Error if there is no such engine.
std::vector<CheckResult> check_attention(const std::string& engine);

}  // namespace longstride::cli
