// The launchers that are built, one template each, instantiated by bfloat16.cu, float16.cu and float32.cu for the dims
// of the table in sm80.cc.
#pragma once

#include "core/half.h"
#include "engine/contract.h"
#include "engine/cuda/scratch.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm80 {

using core::BFloat16;
using core::Float16;

template <class Element, int kDim>
void launch_forward(const ForwardProblem&, const DevicePlan&, Scratch&);

template <class Element, int kDim>
void launch_backward(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm80
