// Under autocast q, k and v are cast as torch casts those of scaled_dot_product_attention: to the autocast dtype, but
// for float64, which stays.
#include <ATen/autocast_mode.h>

#include "op/autograd/kernels.h"

namespace longstride::op::autograd {

using at::Tensor;

Outputs forward_autocast(const Tensor& q, const Tensor& k, const Tensor& v, const Call& call) {
  const at::DeviceType device = q.defined() && q.is_cuda() ? at::kCUDA : at::kCPU;
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(device));
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(device);
  return dispatch_forward(at::autocast::cached_cast(dtype, q, device), at::autocast::cached_cast(dtype, k, device),
                          at::autocast::cached_cast(dtype, v, device), call);
}

}  // namespace longstride::op::autograd
