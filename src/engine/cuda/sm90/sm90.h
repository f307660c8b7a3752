// The Hopper engine: TMA and WGMMA.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

void forward(const Problem&, const DevicePlan&, const Workspace&, Stream);
// `plan` is the transposed plan, uploaded with one query head a KV head.
void backward(const Problem&, const Gradients&, const DevicePlan& plan, const Workspace&, Stream);

}  // namespace longstride::engine::cuda::sm90
