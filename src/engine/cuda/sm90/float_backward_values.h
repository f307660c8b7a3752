// The plain values of the backward kernel of float32; its notes are those of gradient_values.h, rows are keys.
#pragma once

#include "engine/cuda/sm90/gradient_values.h"

namespace longstride::engine::cuda::sm90 {

struct FloatBackwardParams : GradientParams {  // result: dK
  GradientResult values;                       // dV
  float* dq;      // [batch * heads][len_q][kWidth], columns in the order of backward_queries.cuh
  int32_t batch;  // rows of the tensors; a map has three times as many, one after another part's
};

}  // namespace longstride::engine::cuda::sm90
