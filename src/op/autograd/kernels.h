// The kernels that this room registers for the operator and its backward, one pair a dispatch key, and the calls back
// into the dispatcher. Registered in registration.cc; those of the CPU and CUDA are op/kernels.h.
#pragma once

#include "op/autograd/tensor.h"

namespace longstride::op::autograd {

// Into the dispatcher: the next key of the operator.
Outputs dispatch_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads dispatch_backward(const BackwardInputs&, const Call&);

// What is no dense tensor: refused. registration.cc.
Outputs forward_refused(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_refused(const BackwardInputs&, const Call&);

// Meta: shapes only; sizes may be symbolic. meta.cc.
Outputs forward_meta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_meta(const BackwardInputs&, const Call&);

// Autograd: autograd.cc. The gradient of the backward is refused when it is asked for.
Outputs forward_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_autograd(const BackwardInputs&, const Call&);

// Autocast: autocast.cc.
Outputs forward_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);

}  // namespace longstride::op::autograd
