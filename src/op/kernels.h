// The kernels of the operator and its backward on the CPU and CUDA, and what says what they would do. Registered in
// schema.cc.
#pragma once

#include "op/report.h"
#include "op/tensor.h"

namespace longstride::op {

Outputs forward_device(const Tensor& q, const Tensor& k, const Tensor& v, const Call&);
InputGrads backward_device(const BackwardInputs&, const Call&);
CallReport describe_device(const Tensor& q, const Tensor& k, const Tensor& v, const Call&);

}  // namespace longstride::op
