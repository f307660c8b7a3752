// What layers are made of and what their forwards refuse. Called by the modules.
#pragma once

#include <torch/nn/modules/normalization.h>

#include <cstdint>
#include <optional>

#include "longstride/nn/layer.h"

namespace longstride::nn {

inline torch::nn::LayerNorm layer_norm(int64_t dim, double eps) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({dim}).eps(eps));
}

// Of an input that meets `weight`: [batch, len, width], and its dtype and device. Throws Error.
void check_input(const char* argument, const at::Tensor& x, int64_t width, const at::Tensor& weight);
void check_type(const char* argument, const at::Tensor& x, const at::Tensor& weight);

// What autocast casts to on a device, if it is on there; there are devices that know no autocast.
std::optional<at::ScalarType> autocast_type(at::DeviceType device);
// The type in which attention of x will run.
at::ScalarType attention_type(const at::Tensor& x);

// A layer returns one tensor. Throws Error.
void refuse_lse(const MultiheadCall& call);

}  // namespace longstride::nn
