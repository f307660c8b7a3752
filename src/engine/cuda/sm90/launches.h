// The launchers that are built, one template each, instantiated by the files forward_*.cu, backward_*.cu and
// gradient_*.cu for every (element, dim, kind of call) that forward.cc and backward.cc ask for.
// core::BFloat16 and core::Float16 stand for the kernels' own types, so that who calls needs no CUDA header.
#pragma once

#include "core/half.h"
#include "engine/contract.h"
#include "engine/cuda/extras.h"
#include "engine/cuda/scratch.h"
#include "engine/cuda/upload.h"

namespace longstride::engine::cuda::sm90 {

using core::BFloat16;
using core::Float16;

// All tensors are as the kernels want them (padding.h).
template <class Element, int kDim, class Calls>
void launch_forward(const ForwardProblem&, const DevicePlan&, Scratch&);

template <class Element, int kDim, class Calls>
void launch_backward(const BackwardProblem&, const BackwardPlans&, Scratch&);

// Of float32, in one pass too.
template <int kDim>
void launch_float_backward(const BackwardProblem&, const BackwardPlans&, Scratch&);

// All three gradients, one after the other, in a fixed order of additions.
template <class Element, int kDim, class Calls>
void launch_gradients(const BackwardProblem&, const BackwardPlans&, Scratch&);

}  // namespace longstride::engine::cuda::sm90
