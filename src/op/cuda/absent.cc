// Builds without LONGSTRIDE_CUDA: everything on a CUDA device is refused.
#include "core/refuse.h"
#include "longstride/attention/gpus.h"
#include "op/cuda/cuda.h"

namespace longstride::op::cuda {

const Engine& choose_engine(Place device, const engine::Problem&, std::string_view) {
  core::refuse("q", "must be on the CPU: this build has no CUDA engine", text(device),
               "move q, k and v with .cpu(), or build with -DLONGSTRIDE_CUDA=ON");
}

std::vector<const char*> engine_names() { return {}; }

// Not reached: a call chooses its engine first.
Loan lend(Place) { return {}; }

std::vector<EngineReport> reports() { return {{"cuda", false, "this build has no CUDA engine"}}; }

}  // namespace longstride::op::cuda

namespace longstride {
std::string gpu_name(int) { return ""; }
}  // namespace longstride
