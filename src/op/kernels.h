// The kernels behind the operator and its backward, one pair a dispatch key, and the calls back into the dispatcher.
// Registered in schema.cc.
#pragma once

#include "op/call.h"

namespace longstride::op {

// Into the dispatcher: the next key of the operator.
Outputs dispatch_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads dispatch_backward(const BackwardInputs&, const Call&);

// CPU and CUDA: device.cc.
Outputs forward_device(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_device(const BackwardInputs&, const Call&);

// Meta: shapes only; sizes may be symbolic. meta.cc.
Outputs forward_meta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_meta(const BackwardInputs&, const Call&);

// Autograd: autograd.cc. The gradient of the backward is refused when it is asked for.
Outputs forward_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);
InputGrads backward_autograd(const BackwardInputs&, const Call&);

// Autocast: autocast.cc.
Outputs forward_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Call&);

}  // namespace longstride::op
