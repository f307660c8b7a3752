// LibTorch's micro-GEMM for the CPU engine. Called by engines.cc when it fills a workspace.
#pragma once

#include "engine/contract.h"

namespace longstride::op {

// LibTorch's brgemm, for the dtypes whose small product matched plain loops on this machine when first asked; null if
// there is none.
const engine::MicroGemm* brgemm();

}  // namespace longstride::op
