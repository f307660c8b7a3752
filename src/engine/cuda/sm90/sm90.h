// The Hopper engine: TMA and WGMMA.
#pragma once

#include "engine/contract.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

// What the kernels take; forward and backward throw Error with the reason for the rest.
Capability capability(const Problem&);
void forward(const Problem&, const DevicePlan&, const Workspace&, Stream);
// `plan` is the transposed plan, uploaded with one query head a KV head. dQ is added in no fixed order: Error if
// deterministic is asked for.
void backward(const Problem&, const Gradients&, const DevicePlan& plan, const Workspace&, Stream);

}  // namespace longstride::engine::cuda::sm90
